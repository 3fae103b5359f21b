"""Encoders as folders of transformers, which `AutoModel.from_pretrained(FOLDER)` loads."""

import json
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor

import jepa_pipeline._torchvision  # noqa: F401  # before transformers, which imports torchvision
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop.format import PARITY, TOLERANCE, Format, Network, Request
from jepa_pipeline.interop.hf_models import VIT, VJEPA2, Model, model_of
from jepa_pipeline.models.interface import BaseEncoder
from jepa_pipeline.models.weights import WEIGHTS, save_tensors
from jepa_pipeline.redaction import redact

LEAST = "4.57"
"""The oldest version of transformers that was tried."""
VJEPA2_RESIZE = 256 / 224
"""Shorter side over crop in VJEPA2VideoProcessor, whatever its file says."""


def check(request: Request) -> None:
    """Refuse an encoder that no class of transformers has.

    Raises:
        UserError: there is none, or transformers is not installed.
    """
    model = model_of(request.encoder)
    reason = model.why_not(request.encoder) if model else "is of a kind that no class of transformers has"
    if reason:
        raise UserError(
            f"transformers cannot load the encoder of {request.run}, which {reason}; or export it with --to onnx, torch or jepa"
        )
    if find_spec("transformers") is None:
        raise UserError("--to hf reads the export back with transformers, which is not installed: pip install transformers")


def find_model(request: Request) -> Model:
    """Return the class of transformers, which `check` has found."""
    model = model_of(request.encoder)
    assert model is not None
    return model


def write(folder: Path, request: Request) -> None:
    """Write weights, config.json and the configuration of the processor."""
    model = find_model(request)
    save_tensors(folder / WEIGHTS, model.weights(request.encoder))
    config = {"architectures": [model.name], **model.config(request.encoder), "dtype": "float32"}
    write_json(folder / "config.json", config)
    name = "video_preprocessor_config.json" if model is VJEPA2 else "preprocessor_config.json"
    write_json(folder / name, processor_config(request))


def write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(redact(json.dumps(values, indent=2)) + "\n")


def processor_config(request: Request) -> dict[str, Any]:
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

    def compute(pixels: Tensor) -> dict[str, Tensor]:
        if kind == "vjepa2":
            found = model(pixels.transpose(1, 2), skip_predictor=True)
        else:
            found = model(pixels)
        tokens = found.last_hidden_state
        return {"last_hidden_state": tokens, "pooled": found.pooler_output if kind == "vit" else tokens.mean(1)}

    return compute


IMAGES = """from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained("THIS_FOLDER").eval()
processor = AutoImageProcessor.from_pretrained("THIS_FOLDER")
inputs = processor(Image.open("photo.jpg"), return_tensors="pt")
features = model(**inputs).{features}"""
CLIPS = """import numpy as np
from transformers import AutoModel, AutoVideoProcessor

model = AutoModel.from_pretrained("THIS_FOLDER").eval()
processor = AutoVideoProcessor.from_pretrained("THIS_FOLDER")
clip = np.zeros(({frames}, 240, 320, 3), dtype=np.uint8)  # the frames of a clip, RGB
inputs = processor(list(clip), return_tensors="pt")
features = model(**inputs, skip_predictor=True).last_hidden_state.mean(1)"""


def usage(request: Request, difference: float) -> str:
    """Return how to load it; see Format."""
    model, config = find_model(request), request.encoder.config
    pooled = "pooler_output" if model is VIT else "last_hidden_state.mean(1)"
    code = CLIPS.format(frames=config.frames) if model is VJEPA2 else IMAGES.format(features=pooled)
    where = clips_usage(request) if model is VJEPA2 else images_usage(request, model)
    return (
        f"```python\n{code}\n```\n\n"
        f"It was written for {model.name} of transformers {LEAST} or newer, and read back with {version('transformers')}, whose outputs "
        f"for the pixels in `{PARITY}` differed from the encoder's by {difference:.1e} at most ({TOLERANCE:.0e} is allowed). {where}"
    )


def images_usage(request: Request, model: Model) -> str:
    side = request.encoder.config.image_size
    pooling = "`pooler_output` is the class token after the last norm" if model is VIT else f"{model.name} has no pooled output"
    return (
        f"{pooling}. The processor resizes the shorter side to {side} pixels and cuts the center. It gives exactly the pixels of the "
        'probes here if it computes with Pillow: `AutoImageProcessor.from_pretrained(..., backend="pil")` in transformers 5, '
        "`use_fast=False` before. torchvision, the default of transformers 5, rounds some pixels to the next of the 256 levels. "
        f"For images of another size pass `interpolate_pos_encoding=True`; positions are then interpolated without antialiasing, so "
        "that features differ from those of jepa_pipeline and timm at that size."
    )


def clips_usage(request: Request) -> str:
    side, card = request.encoder.config.image_size, request.card
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    return (
        'Clips are "B T 3 H W". `skip_predictor=True` is needed: the folder holds no predictor, and zeros in its place. '
        f"VJEPA2VideoProcessor resizes the shorter side to {int(side * VJEPA2_RESIZE)} pixels, whatever its file says, and then cuts "
        f"{side}; the probes here cut the central square and resize it to {side}. For their pixels, prepare clips yourself: "
        f"{side}x{side}, in 0..1, minus ({mean}), over ({std}). Other sizes than {side}x{side} are **not** computed as here: VJEPA2Model "
        f"takes rows and columns of patches from `crop_size`, and says nothing. For another size load it with "
        "`crop_size=SIDE`, which sets the grid, for squares only."
    )


HF = Format("for transformers: IJepaModel, VJEPA2Model or ViTModel", "transformers", check, write, outputs, load, usage)
