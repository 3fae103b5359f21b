#!/usr/bin/env bash
# torch 2.13.0 (CPU): in bf16 the weight gradient of a strided convolution on a 1x1 feature map is partly uninitialized memory.
#
# A ResNet on small views (16 pixels and stride 32) ends in 3x3 convolutions of stride 2 that are given one pixel. On it only the middle
# of the kernel meets data, so the gradient of the other eight weights must be exactly 0.
# Expected: zeros there, and the same gradient every time, as in fp32, as with stride 1, and as with oneDNN switched off.
# Seen: in bf16 those entries hold whatever was in the memory before: NaN if it was NaN, else some number that changes from run to run.
# The forward pass and the gradient of the input are right. A step is then not finite once in a while, or worse, finite and wrong, and
# a run that is repeated with the same seed differs. Seen on an Intel Xeon with AVX-512 and AMX bf16 instructions,
# for which oneDNN has kernels of its own.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 numpy
"$folder/venv/bin/python" - <<'PY'
import sys

import torch
from torch.nn import functional as F

torch.set_num_threads(1)
EDGE = torch.ones(3, 3, dtype=torch.bool)
EDGE[1, 1] = False  # the eight entries of a 3x3 kernel that only meet padding


def fill_free_memory(value):
    """Leave `value` in memory that the allocator will hand out again."""
    blocks = [torch.full((1000 * size,), value) for size in range(1, 200)]
    del blocks


def weight_gradient(dtype, stride, left_behind):
    torch.manual_seed(0)
    pixels = torch.randn(4, 8, 1, 1).bfloat16().to(dtype)
    weight = torch.randn(16, 8, 3, 3).to(dtype).requires_grad_()
    features = F.conv2d(pixels, weight, stride=stride, padding=1)
    fill_free_memory(left_behind)
    (gradient,) = torch.autograd.grad(features, weight, torch.ones_like(features))
    return gradient


def row(name, dtype, stride):
    """Whether the edge is 0 and the middle right, whatever the memory held before."""
    truth = weight_gradient(torch.float64, stride, 0.0)
    gradients = [weight_gradient(dtype, stride, value).double() for value in (0.0, 7.0, float("nan"))]
    edges = [float(gradient[..., EDGE].abs().max()) for gradient in gradients]
    middle = all(torch.allclose(gradient[..., 1, 1], truth[..., 1, 1], rtol=0.02, atol=0.02) for gradient in gradients)
    print(f"{name:28} largest |gradient| outside the middle {edges}, middle right: {middle}")
    return all(edge == 0 for edge in edges)


fine = [row("fp32, stride 2", torch.float32, 2), row("bf16, stride 1", torch.bfloat16, 1)]
broken = row("bf16, stride 2", torch.bfloat16, 2)
with torch.backends.mkldnn.flags(enabled=False):
    fine.append(row("bf16, stride 2, no oneDNN", torch.bfloat16, 2))
sys.exit(0 if all(fine) and not broken else "this is no longer so")
PY
