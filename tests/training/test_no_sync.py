"""The host never waits for the device inside a step. Fake tensors stand for a GPU's: their values cannot be looked at."""

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jepa_pipeline.batch import Batch
from jepa_pipeline.masks.build import build_masks
from jepa_pipeline.data.random import Stream, keyed_generator
from jepa_pipeline.methods.jepa import build_method
from jepa_pipeline.training.module import Pretraining


with FakeTensorMode() as m:
    x = torch.zeros(4, 4, device="cuda")
    print(x, x.device)
    y = torch.nn.Linear(4,4).to("cuda")
    print(y(x))
    try:
        y(x).sum().backward(); print("backward ok")
    except Exception as e: print("BW", type(e), str(e)[:300])
    for f in (lambda: x.sum().item(), lambda: x.nonzero(), lambda: bool((x>0).any()), lambda: x[x>0], lambda: x.cpu(), lambda: x.tolist(), lambda: torch.equal(x,x), lambda: float(x.sum()),
      lambda: x[torch.arange(2)], lambda: torch.tensor([1.,2.],device="cuda"), lambda: x*torch.tensor(2.), lambda: x.to("cuda"), lambda: torch.arange(3,device="cuda")):
        try: print("fine", f())
        except Exception as e: print(type(e), str(e)[:100])
