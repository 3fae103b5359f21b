"""Batch norm over the batch of all processes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepa_pipeline.distributed import total, world_size


class SyncBatchNorm(_BatchNorm):
    """torch's nn.SyncBatchNorm, which works on GPUs only, and the same on CPUs.

    It is no subclass of that, for DDP refuses a network on CPUs that has one. Children (of timm's norms: dropout, activation)
    follow it.
    """

    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Float[Tensor, "B C *N"]) -> Float[Tensor, "B C *N"]:
        """Normalized by the mean and variance of the global batch; local batches may differ in size.

        Raises:
            ValueError: the global batch has a single value per channel.
        """
        if self.training and world_size() > 1:
            output = self.on_cpu(input) if input.device.type == "cpu" else nn.SyncBatchNorm.forward(self, input)  # pyright: ignore[reportArgumentType]
        else:
            output = super().forward(input)
        for child in self.children():
            output = child(output)
        return output

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of places."""

    def on_cpu(self, input: Float[Tensor, "B C *N"]) -> Float[Tensor, "B C *N"]:
        """In two passes, mean before variance: squares of values far from 0 would leave too few digits for the variance."""
        values = input.to(torch.promote_types(input.dtype, torch.float32)).transpose(0, 1).flatten(1)  # C S
        sums = total(torch.cat([values.sum(1), values.new_tensor([values.shape[1]])]))
        count = sums[-1].detach()
        if count < 2:
            raise ValueError("a batch norm in training needs more than one value per channel in the global batch")
        mean = sums[:-1] / count
        centered = values - mean[:, None]
        var = total(centered.square().sum(1)) / count
        self.remember(mean.detach(), var.detach() * count / (count - 1))
        normed = centered * torch.rsqrt(var + self.eps)[:, None]
        if self.weight is not None:
            normed = normed * self.weight[:, None]
        if self.bias is not None:
            normed = normed + self.bias[:, None]
        return normed.unflatten(1, (len(input), *input.shape[2:])).transpose(0, 1).to(input.dtype)

    @torch.no_grad()
    def remember(self, mean: Float[Tensor, " C"], var: Float[Tensor, " C"]) -> None:
        """Into the running statistics."""
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_(var.to(self.running_var), share)


def sync_batch_norm(network: nn.Module) -> nn.Module:
    """The network with every batch norm made one over all processes; weights, statistics and their names stay.

    A network that is itself a batch norm is replaced, others are changed in place.
    """
    if isinstance(network, _BatchNorm):
        return synced(network)
    for name, child in network.named_children():
        setattr(network, name, sync_batch_norm(child))
    return network


def synced(norm: _BatchNorm) -> SyncBatchNorm:
    with torch.device("meta"):
        new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var, new.num_batches_tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
    for name, child in norm.named_children():
        new.add_module(name, child)
    return new.train(norm.training)
