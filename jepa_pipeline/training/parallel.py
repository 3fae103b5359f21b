"""How the networks of a method are spread over devices, from outside and in one order."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch._dynamo import config as dynamo
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointWrapper, checkpoint_wrapper
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

import jepa_pipeline._torchvision  # noqa: F401  # before timm
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.distributed import world_size
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.attention import use_attention
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.batch_norm import sync_batch_norm
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block

BLOCKS = (Block, EvaBlock)
FORMS_OF_A_NETWORK = 8
"""With and without a gradient, masked or not, of some lengths."""

SHARDED = ("fsdp2", "hsdp")


def parallelize(method: Method, trainer: TrainerConfig, device: str, local_size: int) -> Method:
    """Spread a method's networks over the devices of all processes, which all have it with the same weights.

    In this order: batch norm over all processes, the way attention is computed, activation checkpointing, compilation block by
    block, sharding block by block. DDP needs nothing here; Lightning wraps the whole.

    Raises:
        UserError: activations are to be computed again, and there are no transformer blocks.
    """
    if world_size() > 1:
        sync_batch_norm(method)
    use_attention(method, fused=device != "cpu")
    if trainer.checkpoint_activations:
        checkpoint_activations(method)
    if trainer.compile:
        compile_networks(method)
    if trainer.strategy in SHARDED:
        shard(method, make_mesh(trainer.strategy, device, local_size), bf16=trainer.precision == "bf16")
    return method


def checkpoint_activations(method: Method) -> None:
    """Have every block that trains keep its input alone, and compute what is inside again on the way back.

    Raises:
        UserError: there is none.
    """
    parents = [(parent, name) for parent in method.modules() for name, block in parent.named_children() if is_trained_block(block)]
    if not parents:
        raise UserError(
            f"trainer.checkpoint_activations is true, but {type(method).__name__} here trains no transformer blocks: leave it out"
        )
    for parent, name in parents:
        setattr(parent, name, checkpoint_wrapper(parent.get_submodule(name)))


def is_trained_block(module: nn.Module) -> bool:
    return isinstance(module, BLOCKS) and any(parameter.requires_grad for parameter in module.parameters())


def compile_networks(method: Method) -> None:
    """Compile each transformer block, of which there is one compiled form for all of a network; of one without blocks the whole.

    Torch counts the forms of all networks together and would leave the rest as they are from its eighth on.
    """
    dynamo.recompile_limit = max(dynamo.recompile_limit, FORMS_OF_A_NETWORK * len(method.networks()))
    for network in method.networks():
        parts = list(blocks(network)) or [network]
        for part in parts:
            if next(part.parameters(), None) is not None:
                part.compile()


def blocks(network: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks of a network, with what has been wrapped around each."""
    if isinstance(network, (*BLOCKS, CheckpointWrapper)):
        yield network
        return
    for child in network.children():
        yield from blocks(child)


def is_timms(network: nn.Module) -> bool:
    return any(isinstance(module, Backbone) for module in network.modules())


def make_mesh(strategy: str, device: str, local_size: int) -> DeviceMesh:
    """All devices in a row; under hsdp nodes by devices."""
    size = world_size()
    if strategy == "hsdp":
        return init_device_mesh(device, (size // local_size, local_size), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device, (size,), mesh_dim_names=("shard",))


def shard(method: Method, mesh: DeviceMesh, bf16: bool) -> None:
    """Deal out every parameter, of target and online network alike, along its first dimension.

    Each block is gathered when it is needed and given up again, then the rest of each network. Under bf16 blocks are gathered
    in bf16 and their gradients summed in fp32; the rest stays fp32, for its norms, positions and mask tokens are few, and
    autocast decides, as in a single process, what is computed in which. What is kept is fp32 everywhere.
    """
    in_blocks = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for network in method.networks():
        half = bf16 and not (mesh.device_type == "cpu" and is_timms(network))  # timm's layer norm on CPUs does not mix precisions
        policy: dict[str, Any] = {"mp_policy": in_blocks} if half else {}
        for block in blocks(network):
            fully_shard(block, mesh=mesh, **policy)
        if not isinstance(network, nn.Linear):  # a bare layer is read outside its forward: it is gathered with the whole
            fully_shard(network, mesh=mesh)
    fully_shard(method, mesh=mesh)
