"""The properties and checks that every method's configuration has."""

from typing import TYPE_CHECKING, ClassVar, Literal

from jepa_pipeline.config.grid import Grid
from jepa_pipeline.config.networks import BackboneConfig, EncoderConfig
from jepa_pipeline.config.section import Section
from jepa_pipeline.config.tasks import MaskSet

Distance = Literal["l1", "smooth_l1"]


class BaseMethodConfig(Section):
    """Base of every method's configuration; the defaults here are those of a method without masks.

    Code outside `build` functions asks these properties instead of the configuration's class. Every method also has
    `name`, `encoder` (of the pixels) and `encoders` (of all levels, from the pixels up).
    """

    frames_key: ClassVar[str | None] = None
    """Key that sets the frames of a clip; None: the method is for images only."""
    compares_samples: ClassVar[bool] = False
    """True if the loss or batch norm compares samples, so that the size of a micro-batch changes the results."""

    if TYPE_CHECKING:  # fields of every method; pydantic would put them before those of the subclasses

        @property
        def name(self) -> str: ...

        @property
        def encoder(self) -> EncoderConfig | BackboneConfig: ...

        @property
        def encoders(self) -> tuple[EncoderConfig | BackboneConfig, ...]: ...

    @property
    def level_masks(self) -> tuple[tuple[MaskSet, ...], ...]:
        """Return the mask sets of every level, from the first up; empty for a method without masks."""
        return ()

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Return the token grid of every level; empty for a method without masks."""
        return ()

    @property
    def mask_sets(self) -> tuple[MaskSet, ...]:
        """Return the mask sets of all levels, from the first up; empty for a method without masks."""
        return tuple(masks for level in self.level_masks for masks in level)

    @property
    def distances(self) -> tuple[Distance, ...]:
        """Return the distance between prediction and target of every level; empty for a method without masks."""
        return ()

    @property
    def predicts_only_future(self) -> bool:
        """Return whether every mask set hides the future and nothing else, so that still images teach nothing."""
        return bool(self.mask_sets) and all(masks.predicts_future for masks in self.mask_sets)

    def check_views(self, sizes: list[int]) -> None:
        """Raise ValueError if the method cannot use views of these sizes, in pixels."""

    def check_micro_batch(self, samples: int, processes: int) -> None:
        """Raise ValueError if the method cannot train on micro-batches of `samples` in each of several processes."""
