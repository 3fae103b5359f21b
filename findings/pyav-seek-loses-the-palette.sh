#!/usr/bin/env bash
# PyAV 18.1.0 (with its FFmpeg 8.1): after a seek, frames of a raw 8-bit AVI are black, without an error.
#
# Indexed access to video, as loaders of clips do it, seeks to a key frame and decodes from there. In a raw AVI every frame is a key frame,
# so any of them should decode alone.
# Expected: frame 5 decoded after a seek has the colors that it has when all frames are decoded in order.
# Seen: it is black. The palette is side data of the first packet only; a decoder that starts at a later packet never gets it, and decodes
# indices without colors. Each packet that a decoder starts with needs the palette of the packets before it.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy
"$folder/venv/bin/python" - "$folder/palette.avi" <<'PY'
import sys

import av
import numpy as np

path = sys.argv[1]
rows, columns = np.mgrid[:48, :64]
with av.open(path, "w", format="avi") as container:
    stream = container.add_stream("rawvideo", rate=10)
    stream.width, stream.height, stream.pix_fmt = 64, 48, "pal8"
    for number in range(8):
        indices = ((rows + columns + 20 * number) % 256).astype(np.uint8)
        palette = np.stack([np.full(256, 255), np.arange(256), 255 - np.arange(256), np.full(256, 128)], 1).astype(np.uint8)
        frame = av.VideoFrame.from_ndarray((indices, palette), format="pal8")
        frame.pts = number
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))

with av.open(path) as container:
    in_order = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
with av.open(path) as container:
    stream = container.streams.video[0]
    container.seek(5, stream=stream)
    after_seek = next(frame for frame in container.decode(stream))
    number, sought = after_seek.pts, after_seek.to_ndarray(format="rgb24")

print(f"PyAV {av.__version__}, FFmpeg {av.ffmpeg_version_info}: frame {number} in order has a mean of {in_order[number].mean():.1f} of 255")
print(f"after a seek it has {sought.mean():.1f}")
same = number > 0 and in_order[number].mean() > 50 and sought.max() == 0
sys.exit(0 if same else "changed: the palette is no longer lost by a seek")
PY
