"""The host never waits for the device within a step: no operator needs a value, a shape that depends on values, or a copy."""

from itertools import islice
from pathlib import Path

import pytest
import torch
from streams import load_stream
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.load import load_config
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.masks.build import build_mask_sampler, build_mask_samplers
from jepa_pipeline.methods.build import build_method
from jepa_pipeline.training.module import Pretraining

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense,  # item, float, int, bool, if
    aten.nonzero,
    aten.masked_select,
    aten._unique2,
    aten.unique_consecutive,
    aten.bincount,
    aten.equal,
    aten.lift_fresh,  # torch.tensor: on a GPU a copy from pageable memory
}
COPIES = {torch.Tensor.cpu, torch.Tensor.numpy, torch.Tensor.tolist, torch.Tensor.item, torch.Tensor.cuda}
INDEXING = {aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_}


class HostWaits(AssertionError):
    pass


class NoWaitingOperators(TorchDispatchMode):
    """Raise at operators that wait for a GPU, among them indexing by a mask, whose true entries are counted first."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        operator = func.overloadpacket
        masked = operator in INDEXING and any(index is not None and index.dtype == torch.bool for index in args[1])
        counted = func is aten.repeat_interleave.Tensor and (kwargs or {}).get("output_size") is None
        if operator in WAITS or masked or counted:
            raise HostWaits(str(func))
        return func(*args, **(kwargs or {}))


class NoCopies(TorchFunctionMode):
    """Raise at calls that copy to or from the host; on a CPU they copy nothing and reach no operator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in COPIES:
            raise HostWaits(func.__name__)
        return func(*args, **(kwargs or {}))


def make_batch(config):
    images, size = config.optim.batch_size_global // config.optim.accumulate_steps, config.method.encoder.image_size
    masks = build_mask_sampler(config.method.masks, config.method.encoder.clip_grid)
    generators = [keyed_generator(0, Stream.MASK, 0, number) for number in range(images)]
    pixels = torch.randint(256, (images, 3, size, size), dtype=torch.uint8)
    return Batch([pixels], [masks(generators, 0)], None, [str(number) for number in range(images)], [])


def take_step(config, module, optimizer, batch):
    """Take an optimizer step, calling the hooks in Lightning's order."""

    def closure():
        for part in range(config.optim.accumulate_steps):
            moved = module.on_after_batch_transfer(batch, 0)
            with torch.autocast("cpu", torch.bfloat16, enabled=config.trainer.precision == "bf16"):
                loss = module.training_step(moved, part)
            if part == 0:
                optimizer.zero_grad()
            (loss / config.optim.accumulate_steps).backward()
        module.configure_gradient_clipping(optimizer)

    module.optimizer_step(0, 0, optimizer, closure)


@pytest.mark.parametrize(
    "overrides",
    [
        ["trainer.precision=fp32"],
        ["trainer.precision=bf16", "optim.clip_norm=1.0"],
        ["optim.accumulate_steps=2"],
        ["optim.name=lars", "optim.lr=0.2", "optim.lr_biases=0.005"],
        ["optim.name=sgd", "optim.lr=0.1"],
    ],
    ids=["fp32", "bf16 and clipping", "accumulation", "lars", "sgd"],
)
def test_no_step_waits_for_the_device(tiny, overrides):
    config = tiny(*overrides)
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
    optimizer, batch = module.configure_optimizers(), make_batch(config)
    take_step(config, module, optimizer, batch)  # the first step may wait: constants are created once
    before = module.method.encoder.norm.weight.clone()
    with NoWaitingOperators(), NoCopies():
        take_step(config, module, optimizer, batch)
        take_step(config, module, optimizer, batch)
    assert module.step == 3 and not torch.equal(before, module.method.encoder.norm.weight)


DEBUG = sorted((Path(__file__).parents[2] / "configs" / "debug").glob("*.yaml"))


@pytest.mark.parametrize("uncut", [False, True], ids=["views of workers", "views of the device"])
@pytest.mark.parametrize("recipe", DEBUG, ids=lambda path: path.stem)
def test_no_method_waits_for_the_device(recipe, uncut, shards):
    config = load_config(recipe, [f"data.train={shards / 'train'}", "optim.batch_size_global=8", "optim.total_samples=80"])
    config = config.model_copy(update={"optim": config.optim.model_copy(update={"warmup_samples": 8, "constant_samples": 0})})
    module = Pretraining(build_method(config.method), config.optim, config.views, config.seed)
    optimizer = module.configure_optimizers()
    batches = list(islice(load_stream(config, build_mask_samplers(config.method), crop_on_device=uncut), 3))
    take_step(config, module, optimizer, batches[0])
    before = [parameter.clone() for parameter in module.method.encoder_to_export.parameters()]
    with NoWaitingOperators(), NoCopies():
        for batch in batches[1:]:
            take_step(config, module, optimizer, batch)
    assert module.step == 3
    assert any(not torch.equal(old, new) for old, new in zip(before, module.method.encoder_to_export.parameters(), strict=True))


WAITING_CALLS = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "if": lambda x: 1 if x.sum() > 0 else 0,
    "nonzero": lambda x: x.nonzero(),
    "mask as index": lambda x: x[x > 0],
    "assignment by mask": lambda x: x.__setitem__(x > 0, torch.zeros_like(x[:0, 0])),
    "constant": lambda x: x * torch.tensor([1.0, 2.0]),
    "cpu": lambda x: x.cpu(),
    "list": lambda x: x.tolist(),
    "equal": lambda x: torch.equal(x, x),
    "repeat_interleave": lambda x: x.repeat_interleave(torch.ones_like(x[:, 0], dtype=torch.int64), dim=0),
}


@pytest.mark.parametrize("call", WAITING_CALLS.values(), ids=WAITING_CALLS.keys())
def test_a_wait_is_detected(call):
    x = torch.zeros(3, 2)
    with pytest.raises(HostWaits), NoWaitingOperators(), NoCopies():
        call(x)
