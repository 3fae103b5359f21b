"""Two processes with half a batch each are one process with all of it."""

import copy
import datetime
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from torch import nn

import jepa_pipeline._torchvision  # noqa: F401  # before timm
import timm
from jepa_pipeline.models.batch_norm import SyncBatchNorm, convert_sync_batchnorm

SPLIT = 5
"""Rank 0 has so many of the eight images, rank 1 the rest."""


def resnet():
    return timm.create_model("resnet18", num_classes=0, channels=[4, 4, 8, 8])


def efficientnet():
    """Of timm's norms that activate themselves."""
    return timm.create_model("mobilenetv3_small_050", num_classes=0)


CASES = {
    "1d": (lambda: nn.BatchNorm1d(6), (8, 6), torch.float32),
    "1d after, far from 0": (lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5, affine=False)), (8, 6), torch.float64),
    "2d, cumulative": (lambda: nn.BatchNorm2d(3, momentum=None), (8, 3, 4, 5), torch.float32),
    "without statistics": (lambda: nn.BatchNorm1d(6, track_running_stats=False), (8, 6), torch.float32),
    "resnet": (resnet, (8, 3, 32, 32), torch.float64),
    "mobilenet": (efficientnet, (8, 3, 64, 64), torch.float64),
}


def make(name):
    torch.manual_seed(0)
    build, shape, dtype = CASES[name]
    network, pixels = build().to(dtype).train(), torch.randn(shape, dtype=dtype) * 2 + (100 if "far" in name else 1)
    for parameter in network.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    weights = torch.randn(network(pixels).shape, dtype=dtype)
    return network, pixels, weights


def step(network, pixels, weights):
    """Two batches, so that the running statistics are those of two; the gradients are the second's. All of them."""
    pixels = pixels.clone().requires_grad_()
    network(pixels.detach() + 1)
    output = network(pixels)
    (output * weights).sum().backward()
    return {
        "output": output.detach(),
        "pixels": pixels.grad,
        **{f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()},
        **dict(network.named_buffers()),
    }


def half(rank, folder):
    """One of two processes; leaves what it found."""
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2, timeout=wait)
    try:
        rows = slice(0, SPLIT) if rank == 0 else slice(SPLIT, None)
        for name in CASES:
            network, pixels, weights = make_alone(name)
            found = step(convert_sync_batchnorm(network), pixels[rows], weights[rows])
            torch.save(found, Path(folder) / f"{name} {rank}.pt")
    finally:
        dist.destroy_process_group()


def make_alone(name):
    """As in one process: what makes the network must not hear of the other."""
    network, pixels, weights = make(name)
    return copy.deepcopy(network), pixels, weights


@pytest.fixture(scope="module")
def halves(tmp_path_factory):
    folder = tmp_path_factory.mktemp("halves")
    multiprocessing.start_processes(half, (str(folder),), nprocs=2, start_method="fork")
    return {name: [torch.load(folder / f"{name} {rank}.pt", weights_only=True) for rank in (0, 1)] for name in CASES}


@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name, halves):
    first, second = halves[name]
    whole = step(*make_alone(name))
    assert first.keys() == whole.keys()
    for key, expected in whole.items():
        if key in ("output", "pixels"):
            found = torch.cat([first[key], second[key]])
        elif key.startswith("gradient"):
            found = first[key] + second[key]  # the mean that DDP takes, times two: here the losses are summed over all samples
        else:
            assert torch.equal(first[key], second[key]), key
            found = first[key]
        tolerance = 1e-6 if expected.dtype == torch.float32 else 1e-9
        assert torch.allclose(found.double(), expected.double(), rtol=tolerance, atol=tolerance), key


def test_alone_it_is_torchs_own():
    for name in CASES:
        network, pixels, weights = make(name)
        synced = convert_sync_batchnorm(copy.deepcopy(network))
        assert synced.state_dict().keys() == network.state_dict().keys()
        for ours, theirs in zip(step(synced, pixels, weights).values(), step(network, pixels, weights).values(), strict=True):
            assert torch.equal(ours, theirs)
        assert torch.equal(synced.eval()(pixels), network.eval()(pixels))


def test_every_norm_is_replaced_and_shares_its_weights():
    network = resnet()
    weight, frozen = network.bn1.weight, network.layer1.eval()
    assert convert_sync_batchnorm(network) is network
    assert network.bn1.weight is weight and not frozen[0].bn1.training and network.bn1.training
    norms = [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 21 and all(isinstance(norm, SyncBatchNorm) for norm in norms)
    alone = convert_sync_batchnorm(nn.BatchNorm1d(3))
    assert isinstance(alone, SyncBatchNorm)
