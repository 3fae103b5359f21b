"""What the levels of a stack see of a batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from jepa_pipeline.batch import Masks
from jepa_pipeline.methods.jepa import SharedJEPA, Tokens
from jepa_pipeline.models.coarse import count_below, grid_below, under
from jepa_pipeline.models.tokens import as_clip, placed

Clip = Float[Tensor, "B C *T H W"]


class Sight:
    """A batch as the levels of a stack see it. There is one pass of each target, and one of each trained encoder on everything,
    where a level asks for it.

    detached: of each level, whether its gradient ends there. everything: of each level, the tokens of its kept representation,
    the target.
    """

    def __init__(self, levels: Sequence[SharedJEPA], detached: Sequence[bool], pixels: Clip) -> None:
        self.levels, self.detached = levels, detached
        self.everything: list[Tokens] = []
        self.clips: list[Clip] = []
        """What the target of each level sees."""
        self.wholes: dict[int, Tokens] = {}
        for level, apart in zip(levels, detached, strict=True):
            below = as_clip(self.everything[-1], grid_below(level.encoder.config)) if self.everything else pixels
            self.clips.append(below.detach() if apart else below)
            self.everything.append(level.represent(self.clips[-1]))

    def contexts(self, number: int, masks: Sequence[Masks]) -> list[Tokens]:
        """What the trained encoder of a level, counted from 0, represents of what each of its tasks shows."""
        level = self.levels[number]
        cells = level.seen(masks)
        if cells is None:
            return [self.whole(number)]
        if number == 0:
            return level.encoder(self.clips[0], keep=cells)
        return [self.part(number, one, kept=False) for one in cells]

    def whole(self, number: int) -> Tokens:
        """What the trained encoder of a level represents of everything."""
        if number not in self.wholes:
            level = self.levels[number]
            through_trained = number > 0 and not self.detached[number]
            below = as_clip(self.whole(number - 1), grid_below(level.encoder.config)) if through_trained else self.clips[number]
            self.wholes[number] = level.encoder(below)
        return self.wholes[number]

    def part(self, number: int, cells: Int[Tensor, "B K"], kept: bool) -> Tokens:
        """What an encoder of a level, the kept or the trained one, represents of some of its cells, if those below it are shown
        nothing but the patches under these.
        """
        level = self.levels[number]
        encoder = level.kept_encoder if kept else level.encoder
        if number == 0:
            return encoder(self.clips[0], keep=[cells])[0]
        kept, tokens = kept or self.detached[number], under(cells, encoder.config)
        with torch.set_grad_enabled(torch.is_grad_enabled() and not kept):
            seen = self.part(number - 1, tokens, kept)
        below = as_clip(placed(seen, tokens, count_below(encoder.config)), grid_below(encoder.config))
        return encoder(below, keep=[cells])[0]
