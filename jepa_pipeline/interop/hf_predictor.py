"""Predictors of clips as that of VJEPA2Model: its part of config.json, its weights, and predictions to compare."""

from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from jepa_pipeline.batch import Masks
from jepa_pipeline.interop import hf_names
from jepa_pipeline.interop.format import ExportRequest
from jepa_pipeline.models.predictor import Predictor
from jepa_pipeline.models.tokens import apply_masks

PREDICTED = "predicted"
"""Name of the predictions in the parity batch."""


def predictor_config(predictor: Predictor | None) -> dict[str, Any]:
    """Return the keys of VJEPA2Config for a predictor with one mask token; None: for none."""
    if predictor is None:
        width, heads, depth, ratio = 1, 1, 0, 1.0
    else:
        width, heads, depth, ratio = predictor.embed.out_features, predictor.num_heads, len(predictor.blocks), predictor.mlp_ratio
    return {
        "pred_hidden_size": width,
        "pred_num_attention_heads": heads,
        "pred_num_hidden_layers": depth,
        "pred_mlp_ratio": ratio,
        # VJEPA2Model takes token 1 of several, whatever the mask.
        "pred_num_mask_tokens": 1,
    }


def predictor_weights(predictor: Predictor | None, width: int) -> dict[str, Tensor]:
    """Return the weights by the names of VJEPA2Model; for no predictor zeros, which it would else fill with random numbers.

    Args:
        predictor: of several mask tokens, the first is taken.
        width: of the encoder.
    """
    if predictor is None:
        state = {"embed.weight": torch.zeros(1, width), "embed.bias": torch.zeros(1), "mask_token": torch.zeros(1, 1, 1)}
        state |= {"norm.weight": torch.zeros(1), "norm.bias": torch.zeros(1)}
        state |= {"proj.weight": torch.zeros(width, 1), "proj.bias": torch.zeros(width)}
    else:
        state = {name: tensor.detach().cpu() for name, tensor in predictor.state_dict().items()}
    state["mask_token"] = state["mask_token"][:1, None]
    return hf_names.translate(state, hf_names.VJEPA2_PREDICTOR)


def halves(tokens: int, samples: int) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B M"]]:
    """Return every second token as context, and the others as targets."""
    index = torch.arange(tokens).expand(samples, -1)
    return index[:, ::2].contiguous(), index[:, 1::2].contiguous()


def predicted(request: ExportRequest, pixels: Tensor) -> dict[str, Tensor]:
    """Return what the predictor says of half of the tokens from the others, which were encoded with them, as VJEPA2Model does."""
    predictor, tokens = request.predictor, request.encoder.forward_features(pixels)
    assert predictor is not None
    context, targets = halves(tokens.shape[1], len(tokens))
    masks = Masks(context, targets[:, None])
    return {PREDICTED: predictor.predict_blocks(apply_masks(tokens, context), masks, predictor.mask_token[0]).squeeze(1)}
