#!/usr/bin/env bash
# torch 2.13.0 (CPU), Pillow 12.3.0: bicubic with antialias=True is another kernel than without it, also where nothing is shrunk.
#
# Antialiasing widens a kernel by the factor of shrinking. Enlarging an image has no such factor, so that antialias=True and
# antialias=False should agree there, as they do for bilinear.
# Expected: equal values of both when 8x8 becomes 16x16; and both equal to Pillow's BICUBIC, which pipelines of images use.
# Seen: bilinear agrees. Bicubic differs by several hundredths of the range of values in the middle of the image: with antialias=True it
# is the cubic kernel with a = -0.5, equal to Pillow's; without it, the one with a = -0.75. Whoever switches antialiasing on, or moves a Pillow
# pipeline to tensors, changes every pixel of enlarged crops too, which is every second crop of a small data set.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy pillow==12.3.0
"$folder/venv/bin/python" - <<'PY'
import sys

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

torch.manual_seed(0)
image = torch.rand(1, 1, 8, 8)


def enlarge(mode, antialias):
    return F.interpolate(image, size=16, mode=mode, align_corners=False, antialias=antialias)[0, 0]


def cubic_row(row, a):
    """The interior of a row of 8 values as 16, by the definition of the cubic convolution kernel."""

    def kernel(x):
        x = abs(x)
        if x <= 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    centers = [(position + 0.5) / 2 - 0.5 for position in range(16)]
    return [sum(kernel(center - n) * row[n] for n in range(8)) for center in centers[4:12]]


def cubic(a):
    rows = np.array([cubic_row(row, a) for row in image[0, 0].double().numpy()])
    return torch.from_numpy(np.array([cubic_row(column, a) for column in rows.T]).T)


pillow = torch.from_numpy(np.asarray(Image.fromarray(image[0, 0].numpy()).resize((16, 16), Image.Resampling.BICUBIC)).copy())
inside = (slice(4, 12), slice(4, 12))
bilinear = (enlarge("bilinear", True) - enlarge("bilinear", False)).abs().max().item()
bicubic = (enlarge("bicubic", True) - enlarge("bicubic", False))[inside].abs().max().item()
to_pillow = [(enlarge("bicubic", antialias) - pillow)[inside].abs().max().item() for antialias in (True, False)]
halves = (enlarge("bicubic", True)[inside] - cubic(-0.5)).abs().max().item()
quarters = (enlarge("bicubic", False)[inside] - cubic(-0.75)).abs().max().item()
print(f"torch {torch.__version__}: largest difference between antialias=True and False when enlarging")
print(f"  bilinear {bilinear:.1e}, bicubic {bicubic:.3f}")
print(f"  to Pillow: antialias=True {to_pillow[0]:.1e}, antialias=False {to_pillow[1]:.3f}")
print(f"  antialias=True from the kernel with a = -0.5: {halves:.1e}; antialias=False from a = -0.75: {quarters:.1e}")
same = bilinear < 1e-6 and bicubic > 0.01 and to_pillow[0] < 1e-5 < to_pillow[1] and halves < 1e-5 and quarters < 1e-5
sys.exit(0 if same else "changed: bicubic with and without antialiasing are no longer two kernels")
PY
