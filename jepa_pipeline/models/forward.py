"""The predictor of the future: the next time step from all before it, and the one after that from its own answer."""

from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.models.attention import Blocks, LayerNorm, no_later
from jepa_pipeline.models.positions import sincos
from jepa_pipeline.models.rotary import rope_table
from jepa_pipeline.models.tokens import init_weights, normalised


class ForwardPredictor(nn.Module):
    """A transformer that sees no later time step, as the predictor of V-JEPA 2-AC (Assran et al. 2025, section 3.1).

    A state is what is represented of the time steps so far: all their tokens, normalised, "B N D" with N = T H W.

    Args:
        config: its sizes.
        encoder: of the representations; its positions are of this one's kind.
        condition_dim: width of what each step may be conditioned on, such as an action; 0: nothing.
    """

    pos_embed: Float[Tensor, "N P"] | None
    rope: Float[Tensor, "N E"] | None

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, condition_dim: int = 0) -> None:
        super().__init__()
        dim, heads, rotary = config.embed_dim, config.num_heads, encoder.rotary
        self.steps, self.places = encoder.clip_grid[0], prod(encoder.grid)
        self.embed = nn.Linear(encoder.size.embed_dim, dim)
        self.condition = nn.Linear(condition_dim, dim) if condition_dim else None
        self.register_buffer("pos_embed", None if rotary else sincos(encoder, dim), persistent=False)
        rope = rope_table(encoder.clip_grid, dim // heads, encoder.positions == "rope_tiled") if rotary else None
        self.register_buffer("rope", rope, persistent=False)
        self.blocks = Blocks(dim, config.depth, heads, config.mlp_ratio, rotary)
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, encoder.size.embed_dim)
        init_weights(self, config.init_std)

    def forward(self, state: Float[Tensor, "B N D"], conditions: Float[Tensor, "B T A"] | None = None) -> Float[Tensor, "B N D"]:
        """At each token, what the next time step holds in its place; of every step at once, from it and those before it.

        conditions: of each step of the state, what is done in it.

        Raises:
            ValueError: the state is longer than the clips of training, or conditions are missing or not wanted.
        """
        count = state.shape[1]
        if count > self.steps * self.places:
            raise ValueError(f"a state of {count // self.places} time steps, but there are positions for {self.steps} alone")
        if (conditions is None) != (self.condition is None):
            raise ValueError("this predictor wants conditions" if conditions is None else "this predictor takes no conditions")
        tokens = self.embed(state)
        if self.condition is not None:
            tokens = tokens + self.condition(conditions).repeat_interleave(self.places, 1)
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed[:count]
        steps = torch.arange(count, device=state.device) // self.places
        rope = None if self.rope is None else self.rope[:count]
        return self.proj(self.norm(self.blocks(tokens.to(self.norm.weight.dtype), rope, no_later(steps))))

    def roll_out(
        self, state: Float[Tensor, "B N D"], steps: int, conditions: Float[Tensor, "B T A"] | None = None
    ) -> Float[Tensor, "B _ D"]:
        """The tokens of so many time steps after a state, each predicted from the state and the predictions before it, normalised.
        What is predicted is not normalised itself: it is the smaller, the less can be known.

        conditions: of the steps of the state and of all rolled out but the last.

        Raises:
            ValueError: as forward does.
        """
        predicted = []
        for _ in range(steps):
            known = None if conditions is None else conditions[:, : state.shape[1] // self.places]
            predicted.append(self(state, known)[:, -self.places :])
            state = torch.cat([state, normalised(predicted[-1])], 1)
        return torch.cat(predicted, 1)
