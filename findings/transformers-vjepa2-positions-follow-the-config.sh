#!/usr/bin/env bash
# transformers 5.24.0, torch 2.13.0 (CPU): VJEPA2Model takes clips of any size, but places their patches as if they had the configured size.
#
# Rotary positions have no table that fixes an image size, which is why encoders with them are fine-tuned and evaluated at higher
# resolutions. VJEPA2Model accepts such clips without a word.
# Expected: rows and columns of the grid of the input, as in the published code; so the same weights under configurations that differ in
# crop_size alone give the same tokens for the same clip; or an error.
# Seen: rows and columns are counted on the grid of config.crop_size. With crop_size 32 and patches of 8, a 64-pixel clip's second row of 8 patches
# is taken for a third and fourth row of 4, and a later frame for later rows; the tokens differ from those of the same weights with crop_size 64.
# Rectangular clips are placed wrongly under every configuration. Set config.crop_size to the size of the input before the model is made.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 transformers==5.24.0 numpy
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
import transformers
from transformers import VJEPA2Config, VJEPA2Model

PATCH, TUBELET = 8, 2


def build(crop_size):
    config = VJEPA2Config(
        patch_size=PATCH,
        tubelet_size=TUBELET,
        crop_size=crop_size,
        frames_per_clip=4,
        hidden_size=48,
        num_attention_heads=2,
        num_hidden_layers=2,
        mlp_ratio=2,
        initializer_range=0.2,  # so that attention is not uniform
        pred_hidden_size=24,
        pred_num_attention_heads=2,
        pred_num_hidden_layers=1,
    )
    return VJEPA2Model(config).eval()


torch.manual_seed(0)
models = {size: build(size) for size in (32, 64)}
models[64].load_state_dict(models[32].state_dict())  # strict: no tensor depends on crop_size
with torch.inference_mode():
    difference = {}
    for size in models:
        clip = torch.randn(1, 4, 3, size, size)
        small, large = (model(clip, skip_predictor=True).last_hidden_state for model in models.values())
        difference[size] = (small - large).abs().max().item()
print(f"transformers {transformers.__version__}: largest difference of tokens between crop_size 32 and 64, same weights")
for size, value in difference.items():
    print(f"  clips of {size} pixels: {value:.3f}")
sys.exit(0 if min(difference.values()) > 0.01 else "changed: positions no longer follow config.crop_size")
PY
