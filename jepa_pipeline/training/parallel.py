"""Attention kernels, activation checkpointing, compilation and sharding of a method's networks, applied from outside."""

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
from jepa_pipeline.models.backbone import Backbone
from jepa_pipeline.models.batch_norm import convert_sync_batchnorm
from jepa_pipeline.models.transformer import set_fused_attn
from timm.models.eva import EvaBlock
from timm.models.vision_transformer import Block

BLOCKS = (Block, EvaBlock)
GRAPHS_PER_NETWORK = 8
"""Compiled variants of a block: with and without gradient, with and without masks, for several sequence lengths."""

SHARDED = ("fsdp2", "hsdp")


def parallelize(method: Method, trainer: TrainerConfig, device: str, local_size: int) -> Method:
    """Prepare a method's networks for training on the devices of all ranks, whose initial weights must be equal.

    DDP needs nothing here; Lightning wraps the whole module.

    Raises:
        UserError: activations are to be checkpointed, but there are no transformer blocks.
    """
    # the order is fixed: wrappers must be inside what is compiled, and compiled blocks inside what is sharded
    if world_size() > 1:
        convert_sync_batchnorm(method)
    set_fused_attn(method, fused=device != "cpu")
    if trainer.checkpoint_activations:
        apply_activation_checkpointing(method)
    if trainer.compile:
        apply_compile(method)
    if trainer.strategy in SHARDED:
        apply_fsdp(method, build_mesh(trainer.strategy, device, local_size), bf16=trainer.precision == "bf16")
    return method


def apply_activation_checkpointing(method: Method) -> None:
    """Make every trained block store only its input and recompute its activations in the backward pass."""
    parents = [(parent, name) for parent in method.modules() for name, block in parent.named_children() if is_trained_block(block)]
    if not parents:
        raise UserError(
            f"trainer.checkpoint_activations is true, but {type(method).__name__} trains no transformer blocks: set it to false"
        )
    for parent, name in parents:
        setattr(parent, name, checkpoint_wrapper(parent.get_submodule(name)))


def is_trained_block(module: nn.Module) -> bool:
    return isinstance(module, BLOCKS) and any(parameter.requires_grad for parameter in module.parameters())


def apply_compile(method: Method) -> None:
    """Compile each transformer block, all blocks of a network sharing one graph; networks without blocks as a whole."""
    # dynamo counts the graphs of all networks together, and silently runs blocks eagerly above its limit of 8
    dynamo.recompile_limit = max(dynamo.recompile_limit, GRAPHS_PER_NETWORK * len(method.networks()))
    for network in method.networks():
        for part in list(find_blocks(network)) or [network]:
            if next(part.parameters(), None) is not None:
                part.compile()  # in place: torch.compile would wrap the block and rename its weights in checkpoints


def find_blocks(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the transformer blocks of a network, each with its wrapper if it has one."""
    if isinstance(network, (*BLOCKS, CheckpointWrapper)):
        yield network
        return
    for child in network.children():
        yield from find_blocks(child)


def build_mesh(strategy: str, device: str, local_size: int) -> DeviceMesh:
    """Return a mesh of all devices; for hsdp of nodes x devices."""
    size = world_size()
    if strategy == "hsdp":
        return init_device_mesh(device, (size // local_size, local_size), mesh_dim_names=("replicate", "shard"))
    return init_device_mesh(device, (size,), mesh_dim_names=("shard",))


def apply_fsdp(method: Method, mesh: DeviceMesh, bf16: bool) -> None:
    """Shard every parameter of trained and target networks along its first dimension, block by block.

    With bf16, blocks are gathered in bf16 and their gradients reduced in fp32. The parameters outside of blocks (norms,
    positions, mask tokens) are few and stay fp32, so that autocast chooses the precision of their operations as it does in a
    single process. Shards, gradients and optimizer state are always fp32.
    """
    in_blocks = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for network in method.networks():
        # timm's layer norm on CPUs refuses bf16 weights with fp32 inputs
        fp32_on_cpu = mesh.device_type == "cpu" and any(isinstance(module, Backbone) for module in network.modules())
        policy: dict[str, Any] = {"mp_policy": in_blocks} if bf16 and not fp32_on_cpu else {}
        for block in find_blocks(network):
            fully_shard(block, mesh=mesh, **policy)
        if not isinstance(network, nn.Linear):  # the weight of a bare linear layer is read outside its forward
            fully_shard(network, mesh=mesh)
    fully_shard(method, mesh=mesh)
