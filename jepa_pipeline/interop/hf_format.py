"""Encoders as folders of transformers, which `AutoModel.from_pretrained(FOLDER)` loads."""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before transformers, which imports torchvision
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.pixel_format import RGB8
from jepa_pipeline.interop.format import ExportFormat, ExportRequest, Network
from jepa_pipeline.interop.hf_models import VJEPA2, check_model, find_model
from jepa_pipeline.interop.hf_predictor import PREDICTED, halves, predicted, predictor_config, predictor_weights
from jepa_pipeline.interop.hf_usage import VJEPA2_RESIZE, usage
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import WEIGHTS, save_tensors
from jepa_pipeline.redaction import redact


def check(request: ExportRequest) -> None:
    """Refuse an encoder that no class of transformers has.

    Raises:
        UserError: there is none, or transformers is not installed.
    """
    model, reason = check_model(request.encoder)
    if reason:
        raise UserError(
            f"transformers cannot load the encoder of {request.run}, which {reason}; or export it with --to onnx, torch or jepa"
        )
    if request.card.pixel_format != RGB8:
        raise UserError(
            f"the encoder of {request.run} takes images of {request.card.pixel_format}, but the processors of transformers read "
            "8-bit RGB: export it with --to timm, onnx, torch or jepa"
        )
    if request.predictor is not None and model is not VJEPA2:
        raise UserError("--predictor is for clips: of the classes of transformers only VJEPA2Model has a predictor; leave it out")
    if find_spec("transformers") is None:
        raise UserError("--to hf reads the export back with transformers, which is not installed: pip install transformers")


def write(folder: Path, request: ExportRequest) -> None:
    """Write weights, config.json and the configuration of the processor."""
    model = find_model(request.encoder)
    config, weights = model.config(request.encoder), model.weights(request.encoder)
    if model is VJEPA2:
        config |= predictor_config(request.predictor)
        weights |= predictor_weights(request.predictor, request.encoder.width)
    save_tensors(folder / WEIGHTS, weights)
    write_json(folder / "config.json", {"architectures": [model.name], **config, "dtype": "float32"})
    name = "video_preprocessor_config.json" if model is VJEPA2 else "preprocessor_config.json"
    write_json(folder / name, processor_config(request))


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(redact(json.dumps(values, indent=2)) + "\n")


def processor_config(request: ExportRequest) -> dict[str, Any]:
    """Return how transformers prepares images, as the probes here do; or clips, which it crops more."""
    side, card = request.encoder.config.image_size, request.card
    values = {
        "do_resize": True,
        "resample": 3,  # bicubic
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(card.mean),
        "image_std": list(card.std),
    }
    if request.encoder.config.modality.has_time:
        size = {"shortest_edge": int(side * VJEPA2_RESIZE)}
        return {"video_processor_type": "VJEPA2VideoProcessor", "size": size, "do_convert_rgb": True, **values}
    return {"image_processor_type": "BitImageProcessor", "size": {"shortest_edge": side}, "do_convert_rgb": True, **values}


def outputs(encoder: BaseEncoder, pixels: Tensor) -> dict[str, Tensor]:
    """Return the tokens, also that of the class, as transformers calls them, and the pooled features."""
    return {"last_hidden_state": encoder.forward_features(pixels), "pooled": encoder.pooled(pixels)}


def load(folder: Path) -> Network:
    """Return the network of a folder as its users load it.

    Raises:
        RuntimeError: a weight is missing, left over or of another shape.
    """
    from transformers import AutoModel

    model, report = AutoModel.from_pretrained(folder, output_loading_info=True)
    if wrong := {kind: sorted(map(str, names)) for kind, names in report.items() if names}:
        raise RuntimeError(f"the weights do not fit the network one to one: {wrong}")
    model.eval()
    kind = model.config.model_type

    def compute_image(pixels: Tensor) -> dict[str, Tensor]:
        found = model(pixels)
        tokens = found.last_hidden_state
        return {"last_hidden_state": tokens, "pooled": found.pooler_output if kind == "vit" else tokens.mean(1)}

    def compute_clip(pixels: Tensor) -> dict[str, Tensor]:
        clip = pixels.transpose(1, 2)
        tokens = model(clip, skip_predictor=True).last_hidden_state
        outputs = {"last_hidden_state": tokens, "pooled": tokens.mean(1)}
        if model.config.pred_num_hidden_layers == 0:
            return outputs
        context, targets = halves(tokens.shape[1], len(tokens))
        return outputs | {PREDICTED: model(clip, [context], [targets]).predictor_output.last_hidden_state}

    return compute_clip if kind == "vjepa2" else compute_image


HF = ExportFormat(
    "a folder of transformers: IJepaModel, VJEPA2Model or ViTModel",
    "transformers",
    check,
    write,
    outputs,
    load,
    usage,
    predicted=predicted,
)
