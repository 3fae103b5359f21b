"""Which frames of a video make a clip."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from jepa_pipeline.config.section import Section


class ClipConfig(Section):
    """How frames are taken out of a video: every so many frames, or so many a second."""

    stride: int | None = Field(
        default=4, ge=1, description="Every so many-th frame, whatever the video's rate; null where fps is said."
    )
    fps: float | None = Field(
        default=None, gt=0, description="Frames a second of the video's own time; a variable frame rate is honored. Null: stride."
    )
    start: Literal["random", "center"] = Field(default="random", description="Where in the video a clip lies, while training.")
    short: Literal["loop", "skip"] = Field(
        default="loop",
        description="Of a video that is shorter than a clip: loop, it begins again at its end; skip, it counts as damaged.",
    )

    @model_validator(mode="before")
    @classmethod
    def fps_stands_for_stride(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("fps") is not None and "stride" not in values:
            return {**values, "stride": None}
        return values

    @model_validator(mode="after")
    def the_rate_is_said_once(self) -> Self:
        if self.fps is not None and self.stride is not None:
            raise ValueError(f"fps {self.fps:g} and stride {self.stride} both say which frames are taken: set one of them to null")
        if self.fps is None and self.stride is None:
            raise ValueError("neither fps nor stride says which frames are taken: give one of them")
        return self
