"""Colors of videos are converted by the matrix that the file names; what is done without one is what the README says."""

import io

import av
import numpy as np
import pytest

from jepa_pipeline.data.video import open_video


def color_of(width, parameters):
    """RGB of a video of one color, with the given flags of x264."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as output:
        stream = output.add_stream("libx264", rate=10, options={"x264-params": f"log-level=-1:{parameters}", "crf": "0"})
        stream.width, stream.height, stream.pix_fmt = width, width // 2, "yuv420p"
        frame = av.VideoFrame(width, width // 2, "yuv420p")
        for plane, value in zip(frame.planes, (120, 90, 190), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        frame.pts = 0
        output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return open_video(file.getvalue()).frames(np.zeros(1, np.int64))[0, 0, 0].tolist()


@pytest.mark.parametrize("width", [320, 1280])
def test_a_video_without_a_color_matrix_is_bt601_in_hd_too(width):
    untagged, bt601, bt709 = (color_of(width, flags) for flags in ("bframes=0", "colormatrix=smpte170m", "colormatrix=bt709"))
    assert untagged == bt601 != bt709


@pytest.mark.parametrize("transfer", ["smpte2084", "arib-std-b67"])
def test_high_dynamic_range_is_not_tone_mapped(transfer):
    standard = color_of(320, "colormatrix=bt2020nc")
    assert color_of(320, f"colormatrix=bt2020nc:colorprim=bt2020:transfer={transfer}") == standard
