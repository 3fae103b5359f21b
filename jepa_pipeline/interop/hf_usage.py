"""The card of a folder of transformers: how to load it, and where transformers differs."""

from importlib.metadata import version

from jepa_pipeline.interop.format import PARITY, TOLERANCE, ExportRequest
from jepa_pipeline.interop.hf_models import VIT, VJEPA2, Model, find_model

LEAST = "4.57"
"""The oldest version of transformers that was tried."""
VJEPA2_RESIZE = 256 / 224
"""Shorter side over crop in VJEPA2VideoProcessor, whatever its file says."""
IMAGES = """from PIL import Image
from transformers import AutoImageProcessor, AutoModel

model = AutoModel.from_pretrained(".").eval()
processor = AutoImageProcessor.from_pretrained(".")
inputs = processor(Image.open("photo.jpg"), return_tensors="pt")
features = model(**inputs).FEATURES"""
CLIPS = """import numpy as np
from transformers import AutoModel, AutoVideoProcessor

model = AutoModel.from_pretrained(".").eval()
processor = AutoVideoProcessor.from_pretrained(".")
clip = np.zeros((FRAMES, 240, 320, 3), dtype=np.uint8)  # the frames of yours, RGB
inputs = processor(list(clip), return_tensors="pt")
features = model(**inputs, skip_predictor=True).last_hidden_state.mean(1)"""


def usage(request: ExportRequest, difference: float) -> str:
    """Return how to load it; see ExportFormat."""
    model = find_model(request.encoder)
    if model is VJEPA2:
        code = CLIPS.replace("FRAMES", str(request.encoder.config.frames))
        words = f"{clips_usage(request)} {predictor_usage(request)}"
    else:
        code = IMAGES.replace("FEATURES", "pooler_output" if model is VIT else "last_hidden_state.mean(1)")
        words = images_usage(request, model)
    return (
        f"```python\n{code}\n```\n\n"
        f"It is a {model.name} of transformers, {LEAST} or newer. Version {version('transformers')} read it back: its outputs for "
        f"the pixels in `{PARITY}` differed from the encoder's by {difference:.1e} at most; {TOLERANCE:.0e} is allowed. {words}"
    )


def images_usage(request: ExportRequest, model: Model) -> str:
    """Return what is pooled, how images are prepared, and what holds for other sizes."""
    pooled = "`pooler_output` is the class token after the last norm" if model is VIT else f"{model.name} itself pools nothing"
    side = request.encoder.config.image_size
    return (
        f"{pooled}. The processor resizes the shorter side to {side} pixels and cuts out the center. With Pillow, "
        '`AutoImageProcessor.from_pretrained(..., backend="pil")` in transformers 5 and `use_fast=False` before, it gives exactly '
        "the pixels of the probes below, but one pixel further up or left where the longer side is then 3, 7, 11, ... pixels "
        f"longer than {side}: transformers rounds halves down, timm and the probes to even numbers. torchvision, the default of "
        "transformers 5, also rounds some pixels to the next of the 256 levels. For images of another size pass "
        "`interpolate_pos_encoding=True`; positions are then interpolated without antialiasing, and features differ from those of "
        "jepa_pipeline and timm at that size."
    )


def clips_usage(request: ExportRequest) -> str:
    """Return how clips are prepared, and what holds for other sizes."""
    side, card = request.encoder.config.image_size, request.card
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (card.mean, card.std))
    return (
        'Clips are "B T C H W". **The processor does not prepare them as the probes below did**: VJEPA2VideoProcessor resizes '
        f"the shorter side to {int(side * VJEPA2_RESIZE)} pixels, whatever its file says, and cuts out {side}. For the same "
        f"features resize the shorter side to {side}, cut out the center, scale to 0..1, subtract ({mean}) and divide by ({std}). "
        f"**Clips of another size than {side}x{side}** must be squares and need `AutoModel.from_pretrained(..., crop_size=SIDE)`: "
        "VJEPA2Model takes the rows and columns of patches from `crop_size` and not from the clip, without an error."
    )


def predictor_usage(request: ExportRequest) -> str:
    """Return which predictor the folder holds."""
    if request.predictor is None:
        return "The folder holds no predictor, and zeros in its place: pass `skip_predictor=True`."
    sets = len(request.predictor.mask_token)
    token = f"the first of those of its {sets} mask sets; the others are left out" if sets > 1 else "its only one"
    return (
        f"The folder holds the predictor with one mask token, {token}: "
        "`model(**inputs, context_mask=[...], target_mask=[...]).predictor_output.last_hidden_state`. VJEPA2Model encodes the "
        "whole clip and gives the predictor the tokens of the context; it was trained on contexts that were encoded alone."
    )
