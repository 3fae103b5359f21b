#!/usr/bin/env bash
# PyAV 18.1.0 (with its FFmpeg 8.1): frame.side_data of a Motion JPEG frame that has EXIF raises ValueError.
#
# Cameras write AVI or MOV files of JPEG pictures, each with its EXIF. Code that turns videos upright asks a frame's side data for the
# display matrix.
# Expected: frame.side_data gives the side data that PyAV knows, as for other videos, and perhaps passes over what it does not know.
# Seen: reading it raises "ValueError: 31 is not a valid Type", because FFmpeg 8.1 hands out EXIF as side data of a frame and PyAV's
# list of types ends before it. The pixels decode, and frame.rotation works. Code that asks for the matrix loses all such videos.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q av==18.1.0 numpy pillow==12.3.0
"$folder/venv/bin/python" - "$folder" <<'PY'
import io
import sys
from fractions import Fraction

import av
import numpy as np
from PIL import Image


def picture(number, exif):
    """One frame of a camera: a JPEG, with the orientation and the maker in its EXIF if asked."""
    file, tags = io.BytesIO(), Image.Exif()
    tags[0x0112], tags[0x010F] = 1, "camera"
    pixels = np.full((48, 64, 3), 20 * number, np.uint8)
    Image.fromarray(pixels).save(file, "JPEG", **({"exif": tags} if exif else {}))
    return file.getvalue()


def write(path, exif):
    with av.open(path, "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for number in range(3):
            packet = av.Packet(picture(number, exif))
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, number, number, Fraction(1, 10)
            container.mux(packet)


def side_data(path):
    with av.open(path) as container:
        frame = next(container.decode(video=0))
        frame.to_ndarray(format="rgb24")
        try:
            return f"{len(frame.side_data)} entries", frame.rotation
        except ValueError as error:
            return f"ValueError: {error}", frame.rotation


found = {}
for exif in (False, True):
    write(f"{sys.argv[1]}/{exif}.avi", exif)
    found[exif], rotation = side_data(f"{sys.argv[1]}/{exif}.avi")
    print(f"PyAV {av.__version__}, {'with' if exif else 'without'} EXIF: side_data: {found[exif]}; rotation: {rotation}")
same = found[False] == "0 entries" and found[True].startswith("ValueError")
sys.exit(0 if same else "changed: side data of frames with EXIF can be read")
PY
