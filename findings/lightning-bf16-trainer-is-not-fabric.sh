#!/usr/bin/env bash
# lightning 2.6.6 with torch 2.13.0: precision="bf16-mixed" of Trainer is not that of Fabric, nor torch.autocast's default.
#
# A network that is called twice in a step (the views of a joint-embedding method, the mask sets of V-JEPA) uses each weight twice.
# Expected: Trainer(precision="bf16-mixed") and Fabric(precision="bf16-mixed") both do what `with torch.autocast("cpu", torch.bfloat16)`
# does, so that a run moved from one to the other, or to a plain loop, repeats bit for bit.
# Seen: torch.autocast and Fabric cast each weight once and keep the bf16 copy until the context ends, so that the gradients of both
# calls are summed in bf16. The Trainer's plugin enters autocast with cache_enabled=False: every call casts the weight anew, and the
# gradients are summed in fp32. The losses of the first step are equal bit for bit and the gradients are not; the Trainer's are nearer to
# the exact ones and cost one more cast of every weight in every further call. A plain loop reproduces a Trainer's bf16 run only with
# torch.autocast(..., cache_enabled=False).
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q torch==2.13.0 lightning==2.6.6 numpy
"$folder/venv/bin/python" - <<'PY'
import logging
import sys

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lightning.fabric import Fabric
from lightning.pytorch.plugins.precision import MixedPrecision

logging.disable(logging.WARNING)


class Casts(TorchDispatchMode):
    """Counts conversions to bf16 of tensors of the weight's shape."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.ops.aten._to_copy.default and kwargs.get("dtype") is torch.bfloat16 and args[0].shape == (64, 48):
            self.count += 1
        return function(*args, **kwargs)


def step(context):
    """The loss, gradient and number of weight casts of a layer that is called on two views."""
    torch.manual_seed(0)
    layer, views = nn.Linear(48, 64), [torch.randn(32, 48) for _ in range(2)]
    with Casts() as casts, context:
        loss = sum(layer(view).float().square().mean() for view in views)
    loss.backward()
    return loss.item(), layer.weight.grad, casts.count


def exact():
    torch.manual_seed(0)
    layer, views = nn.Linear(48, 64), [torch.randn(32, 48) for _ in range(2)]
    sum(layer(view).square().mean() for view in views).backward()
    return layer.weight.grad


fabric = Fabric(accelerator="cpu", precision="bf16-mixed")
runs = {
    "torch.autocast": step(torch.autocast("cpu", torch.bfloat16)),
    "torch.autocast, cache_enabled=False": step(torch.autocast("cpu", torch.bfloat16, cache_enabled=False)),
    "Trainer, bf16-mixed": step(MixedPrecision("bf16-mixed", "cpu").forward_context()),
    "Fabric, bf16-mixed": step(fabric.autocast()),
}
truth = exact()
for name, (loss, gradient, casts) in runs.items():
    print(f"{name:36} loss {loss:.9f}, weight cast {casts} time(s), gradient off by {(gradient - truth).norm() / truth.norm():.2e}")
(plain_loss, plain, once), (_, uncached, twice), (trainer_loss, trainer, trainer_casts), (_, fabric_gradient, fabric_casts) = runs.values()
as_described = (
    plain_loss == trainer_loss
    and (once, twice, trainer_casts, fabric_casts) == (1, 2, 2, 1)
    and torch.equal(trainer, uncached)
    and torch.equal(fabric_gradient, plain)
    and not torch.equal(trainer, plain)
)
sys.exit(0 if as_described else "this is no longer so")
PY
