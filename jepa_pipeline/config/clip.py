"""The frames of a video that make a clip."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section


class ClipConfig(Section):
    """Sampling of frames from a video: every `stride`-th frame, or `fps` frames per second."""

    stride: int | None = Field(
        default=4, ge=1, description="Frames of the video from one frame of the clip to the next; null if fps is set."
    )
    fps: float | None = Field(
        default=None, gt=0, description="Frames per second of the video's time, also at variable frame rates; null: use stride."
    )
    spacing: Literal["exact", "window"] = Field(
        default="exact",
        description="exact: frames are stride apart, or 1 / fps. window: frames are spread evenly over a window of as many strides "
        "as frames, from its first to its last frame, as in V-JEPA's code: 16 frames of stride 4 are 0, 4, 8, 12, 17, ... 63.",
    )
    start: Literal["random", "center"] = Field(default="random", description="Position of training clips in the video.")
    short: Literal["loop", "hold", "skip"] = Field(
        default="loop",
        description="For videos shorter than a clip: loop, start again after the last frame; hold, repeat the last frame, as "
        "V-JEPA does; skip, treat as unusable.",
    )

    @model_validator(mode="before")
    @classmethod
    def replace_default_stride(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("fps") is not None and "stride" not in values:
            return {**values, "stride": None}
        return values

    @model_validator(mode="after")
    def check_rate(self) -> Self:
        if self.fps is not None and self.stride is not None:
            raise ValueError(f"fps {self.fps:g} and stride {self.stride} are both set: set one of them to null")
        if self.fps is None and self.stride is None:
            raise ValueError("neither fps nor stride is set: set one of them")
        return self
