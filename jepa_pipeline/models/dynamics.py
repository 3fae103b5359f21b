"""The predictor of the future: the next state from the present one, and the one after that from its own answer."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.models.attention import Blocks, LayerNorm
from jepa_pipeline.models.positions import sincos_2d
from jepa_pipeline.models.rotary import rope_table
from jepa_pipeline.models.tokens import init_weights, normalized


class ForwardPredictor(nn.Module):
    """A transformer on the tokens of one time step, which answers with those of the next.

    A state is what an encoder that does not look ahead represents of a time step, normalized: "B P D", P places of a frame. It is
    all the predictor is given, so that whatever the future takes, such as speeds, must be in the representation and cannot be left
    to the predictor. States of all times are predicted alike, and as far ahead as one likes (LeCun 2022, section 4.4).

    Args:
        config: its sizes.
        encoder: of the representations; its positions are of this one's kind.
        condition_dim: width of what a step may be conditioned on, such as an action; 0: nothing.
    """

    pos_embed: Float[Tensor, "P E"] | None
    rope: Float[Tensor, "P E"] | None

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, condition_dim: int = 0) -> None:
        super().__init__()
        dim, heads, rotary = config.embed_dim, config.num_heads, encoder.rotary
        self.embed = nn.Linear(encoder.size.embed_dim, dim)
        self.condition = nn.Linear(condition_dim, dim) if condition_dim else None
        self.register_buffer("pos_embed", None if rotary else sincos_2d(encoder.grid, dim), persistent=False)
        rope = rope_table((1, *encoder.grid), dim // heads, encoder.positions == "rope_tiled") if rotary else None
        self.register_buffer("rope", rope, persistent=False)
        self.blocks = Blocks(dim, config.depth, heads, config.mlp_ratio, rotary)
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, encoder.size.embed_dim)
        init_weights(self, config.init_std)

    def forward(self, states: Float[Tensor, "*S P D"], conditions: Float[Tensor, "*S A"] | None = None) -> Float[Tensor, "*S P D"]:
        """The state after each state. conditions: what is done in each.

        Raises:
            ValueError: conditions are missing, or not wanted.
        """
        if (conditions is None) != (self.condition is None):
            raise ValueError("this predictor wants conditions" if conditions is None else "this predictor takes no conditions")
        tokens = self.embed(states)
        if self.condition is not None:
            tokens = tokens + self.condition(conditions)[..., None, :]
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        flat = tokens.to(self.norm.weight.dtype).reshape(-1, *tokens.shape[-2:])
        return self.proj(self.norm(self.blocks(flat, self.rope))).view(states.shape)

    def roll_out(
        self, states: Float[Tensor, "*S P D"], steps: int, conditions: Float[Tensor, "*S T A"] | None = None
    ) -> Float[Tensor, "*S T P D"]:
        """So many time steps after each state, each predicted from the one before it, normalized.

        What is returned is not normalized: a prediction is the smaller, the less can be known.

        Args:
            states: where to begin, each by itself.
            steps: T.
            conditions: what is done in the state and in each that follows, but the last.

        Raises:
            ValueError: conditions are missing, or not wanted.
        """
        predicted = []
        for step in range(steps):
            predicted.append(self(states, None if conditions is None else conditions[..., step, :]))
            states = normalized(predicted[-1])
        return torch.stack(predicted, -3)
