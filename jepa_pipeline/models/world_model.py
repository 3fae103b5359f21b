"""A world model: encode the past, then predict the future step by step."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.models.dynamics import ForwardPredictor
from jepa_pipeline.models.encoder import Encoder
from jepa_pipeline.models.stack import Stack
from jepa_pipeline.models.tokens import layer_norm


class WorldModel(nn.Module):
    """The encoder of a level and the predictor of its states, for planning (LeCun 2022, section 4.4).

        world = load_method("runs/NAME").world_model(level=2)
        states = world.encode(clips)                        # B T P D
        future = world.roll_out(states[:, -1], steps=8)     # B 8 P D

    A state describes one time step of the level at P positions, and the earlier steps within reach of attention. Any number
    of steps can be predicted. A conditional predictor takes one condition, such as an action, per step.
    """

    def __init__(self, encoder: Encoder | Stack, predictor: ForwardPredictor) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor

    @torch.no_grad()
    def encode(self, pixels: Float[Tensor, "B C *T H W"]) -> Float[Tensor, "B T P D"]:
        """Return the state at every time step of the level.

        Raises:
            ValueError: the clips have another size than in training, or more frames where positions are added to the tokens:
                interpolation would change the position of every frame.
        """
        first = self.encoder.config.levels[0]
        if {*pixels.shape[-2:]} != {first.image_size}:
            height, width = pixels.shape[-2:]
            raise ValueError(
                f"clips have {height}x{width} pixels, but the encoder was trained on {first.image_size}x{first.image_size}"
            )
        if not first.rotary and pixels.ndim == 5 and pixels.shape[2] > first.frames:
            raise ValueError(
                f"clips have {pixels.shape[2]} frames, but the encoder was trained on {first.frames}: pass the last ones"
            )
        return layer_norm(self.encoder(pixels)).unflatten(1, (-1, self.predictor.positions))

    def roll_out(
        self, states: Float[Tensor, "*S P D"], steps: int, conditions: Float[Tensor, "*S T A"] | None = None
    ) -> Float[Tensor, "*S T P D"]:
        """Return the time steps that follow each state; see ForwardPredictor.roll_out."""
        return self.predictor.roll_out(states, steps, conditions)
