"""The predictor of the future: each time step from the one before it."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor, nn

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.models.positions import sincos_2d
from jepa_pipeline.models.rotary import rope_table
from jepa_pipeline.models.tokens import layer_norm
from jepa_pipeline.models.transformer import LayerNorm, Transformer, init_weights


class ForwardPredictor(nn.Module):
    """A transformer that predicts the tokens of the next time step from those of one time step (LeCun 2022, section 4.4).

    A state, "B P D", is the layer-normalized output of a causal encoder for one time step with P positions. It is the
    predictor's only input, so the representation must hold all that the future depends on, such as velocities. The same
    weights predict from every time step, and any number of steps ahead.

    In training (LeCun 2022, section 4.6) every state of a clip is rolled out `horizon` steps, each from the prediction before
    it. Because the encoder is causal, one pass represents every past, and the state of step t knows steps 0..t alone.

    Args:
        config: its sizes.
        encoder: configuration of the encoder whose states it predicts.
        condition_dim: width of the conditions, such as actions; 0: none.
        horizon: time steps that are rolled out in training.
    """

    pos_embed: Float[Tensor, "P E"] | None
    rope: Float[Tensor, "P E"] | None
    predicts_future = True
    monitored = -1
    """Index of the prediction that the health meters see: the last step of the roll-out."""

    def __init__(self, config: PredictorConfig, encoder: EncoderConfig, condition_dim: int = 0, horizon: int = 1) -> None:
        super().__init__()
        dim, heads, rotary = config.embed_dim, config.num_heads, encoder.rotary
        self.steps, self.positions, self.horizon = encoder.clip_grid[0], prod(encoder.grid), horizon
        self.embed = nn.Linear(encoder.size.embed_dim, dim)
        self.condition = nn.Linear(condition_dim, dim) if condition_dim else None
        self.register_buffer("pos_embed", None if rotary else sincos_2d(encoder.grid, dim), persistent=False)
        rope = rope_table((1, *encoder.grid), dim // heads, encoder.positions == "rope_tiled") if rotary else None
        self.register_buffer("rope", rope, persistent=False)
        self.blocks = Transformer(dim, config.depth, heads, config.mlp_ratio, rotary)
        self.norm = LayerNorm(dim)
        self.proj = nn.Linear(dim, encoder.size.embed_dim)
        init_weights(self, config.init_std, config.init_depth_scaling)
        self.metric_names = [f"ahead{step}" for step in range(1, horizon + 1)]

    def forward(self, states: Float[Tensor, "*S P D"], conditions: Float[Tensor, "*S A"] | None = None) -> Float[Tensor, "*S P D"]:
        """Return the state that follows each state, given the condition under which it does.

        Raises:
            ValueError: conditions are missing or not supported.
        """
        if (conditions is None) != (self.condition is None):
            raise ValueError("this predictor needs conditions" if conditions is None else "this predictor takes no conditions")
        tokens = self.embed(states)
        if self.condition is not None:
            tokens = tokens + self.condition(conditions)[..., None, :]
        if self.pos_embed is not None:
            tokens = tokens + self.pos_embed
        # under autocast the embedding is bf16, but the residual stream stays fp32
        flat = tokens.to(self.norm.weight.dtype).reshape(-1, *tokens.shape[-2:])
        return self.proj(self.norm(self.blocks(flat, self.rope))).view(states.shape)

    def roll_out(
        self, states: Float[Tensor, "*S P D"], steps: int, conditions: Float[Tensor, "*S T A"] | None = None
    ) -> Float[Tensor, "*S T P D"]:
        """Return the T time steps that follow each state, each predicted from the layer-normalized one before it.

        The result is not normalized: the less is known about a step, the smaller is its prediction.

        Args:
            states: initial states.
            steps: T.
            conditions: conditions of the initial state and of each predicted one except the last.

        Raises:
            ValueError: conditions are missing or not supported.
        """
        predictions = []
        for step in range(steps):
            predictions.append(self(states, None if conditions is None else conditions[..., step, :]))
            states = layer_norm(predictions[-1])
        return torch.stack(predictions, -3)

    def context_masks(self, masks: Sequence[Masks]) -> None:
        """Return None: a causal encoder sees the whole clip, and each token only its past."""

    def select_targets(self, target: Float[Tensor, "B N D"], masks: Sequence[Masks]) -> list[Float[Tensor, "B _ P D"]]:
        """Return the states to predict, for each number of steps ahead all that have a past in the clip."""
        states = target.unflatten(1, (self.steps, -1))
        return [states[:, ahead:] for ahead in range(1, self.horizon + 1)]

    def predict(self, contexts: Sequence[Float[Tensor, "B N D"]], masks: Sequence[Masks]) -> list[Float[Tensor, "B _ P D"]]:
        """Return the prediction of what `select_targets` returns."""
        (tokens,), predictions = contexts, []
        states = layer_norm(tokens).unflatten(1, (self.steps, -1))
        for _ in range(self.horizon):
            predictions.append(self(states[:, :-1]))  # what follows the last state is not in the clip
            states = layer_norm(predictions[-1])
        return predictions

    def predict_masked(self, contexts: Sequence[Float[Tensor, "B N D"]], masks: Sequence[Masks]) -> list[Float[Tensor, "B 1 M D"]]:
        """Return the prediction of the mask's target, rolled out from the last state of its context."""
        ((tokens,), (mask,)) = contexts, masks
        states = layer_norm(tokens).unflatten(1, (self.steps, -1))
        last = states[:, mask.context.shape[1] // self.positions - 1]
        return [self.roll_out(last, mask.targets.shape[2] // self.positions).flatten(1, 2)[:, None]]
