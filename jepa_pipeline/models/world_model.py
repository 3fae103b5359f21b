"""A model of the world: encode what has been seen, then predict what follows, step by step."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.tokens import normalized


class WorldModel(nn.Module):
    """The encoder of a level and what predicts its states from one another (LeCun 2022, section 4.4): what planning stands on.

        world = load_method("runs/NAME").world_model(level=2)
        states = world.encode(clips)                        # B T P D
        future = world.roll_out(states[:, -1], steps=8)     # B 8 P D

    A state is that of one time step of the level, P places of a frame, and knows the steps before it that attention reaches. How
    far ahead is the caller's choice. With a predictor that takes conditions, such as actions, each step is told what is done in it.
    """

    def __init__(self, encoder: Encoder | Stack, predictor: ForwardPredictor) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B T P D"]:
        """The state at every time step of the level.

        Raises:
            ValueError: the clips have another size than in training, or, where positions are added, more frames: these would be
                other positions for every frame there is.
        """
        levels = self.encoder.config.levels if isinstance(self.encoder, Stack) else (self.encoder.config,)
        first, read = levels[0], levels[self.encoder.read[0] if isinstance(self.encoder, Stack) else 0]
        if {*pixels.shape[-2:]} != {first.image_size}:
            height, width = pixels.shape[-2:]
            raise ValueError(f"clips of {height}x{width} pixels, but the encoder was trained on {first.image_size} to a side")
        if not first.rotary and pixels.ndim == 5 and pixels.shape[2] > first.frames:
            raise ValueError(
                f"clips of {pixels.shape[2]} frames, but the encoder was trained on {first.frames}: give the last ones"
            )
        return normalized(self.encoder(pixels)).unflatten(1, (-1, prod(read.grid)))

    def roll_out(
        self, states: Float[Tensor, "*S P D"], steps: int, conditions: Float[Tensor, "*S T A"] | None = None
    ) -> Float[Tensor, "*S T P D"]:
        """The time steps after each state; see ForwardPredictor.roll_out."""
        return self.predictor.roll_out(states, steps, conditions)
