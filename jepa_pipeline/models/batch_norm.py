"""Batch norm over the batch of all processes."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from jepa_pipeline.distributed import all_reduce, world_size


class SyncBatchNorm(_BatchNorm):
    """torch's nn.SyncBatchNorm, which works on GPUs only, with the same computation on CPUs.

    It is not a subclass of nn.SyncBatchNorm because DDP refuses networks on CPUs that contain one. Child modules, which are the
    dropout and activation of timm's norms, are applied to the output.
    """

    # nn.SyncBatchNorm.forward, which is called with this class as self, reads these two private names.
    process_group = None
    _check_non_zero_input_channels = nn.SyncBatchNorm._check_non_zero_input_channels

    def forward(self, input: Float[Tensor, "B C *N"]) -> Float[Tensor, "B C *N"]:
        """Normalize by the mean and variance of the global batch; local batches may differ in size.

        Raises:
            ValueError: the global batch has a single value per channel.
        """
        if self.training and world_size() > 1:
            output = self.forward_cpu(input) if input.device.type == "cpu" else nn.SyncBatchNorm.forward(self, input)  # pyright: ignore[reportArgumentType]
        else:
            output = super().forward(input)
        for child in self.children():
            output = child(output)
        return output

    def _check_input_dim(self, input: Tensor) -> None:
        """Accept inputs of 1d, 2d and 3d batch norm; the base class raises NotImplementedError."""

    def forward_cpu(self, input: Float[Tensor, "B C *N"]) -> Float[Tensor, "B C *N"]:
        values = input.to(torch.promote_types(input.dtype, torch.float32)).transpose(0, 1).flatten(1)  # C S
        sums = all_reduce(torch.cat([values.sum(1), values.new_tensor([values.shape[1]])]))
        count = sums[-1].detach()
        if count < 2:
            raise ValueError("a batch norm in training needs more than one value per channel in the global batch")
        mean = sums[:-1] / count
        # The variance is a second pass: one pass of sums of squares loses its digits for values far from 0.
        centered = values - mean[:, None]
        var = all_reduce(centered.square().sum(1)) / count
        self.update_running_stats(mean.detach(), var.detach() * count / (count - 1))
        normed = centered * torch.rsqrt(var + self.eps)[:, None]
        if self.weight is not None:
            normed = normed * self.weight[:, None]
        if self.bias is not None:
            normed = normed + self.bias[:, None]
        return normed.unflatten(1, (len(input), *input.shape[2:])).transpose(0, 1).to(input.dtype)

    @torch.no_grad()
    def update_running_stats(self, mean: Float[Tensor, " C"], var: Float[Tensor, " C"]) -> None:
        if not self.track_running_stats:
            return
        assert self.num_batches_tracked is not None and self.running_mean is not None and self.running_var is not None
        self.num_batches_tracked.add_(1)
        # As in torch, momentum None is a cumulative average.
        weight = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean.to(self.running_mean), weight)
        self.running_var.lerp_(var.to(self.running_var), weight)


def convert_sync_batchnorm(network: nn.Module) -> nn.Module:
    """Return the network with every batch norm replaced by SyncBatchNorm; weights, statistics and their names stay.

    A network that is itself a batch norm is replaced; others are changed in place.
    """
    if isinstance(network, _BatchNorm):
        return convert(network)
    for name, child in network.named_children():
        setattr(network, name, convert_sync_batchnorm(child))
    return network


def convert(norm: _BatchNorm) -> SyncBatchNorm:
    with torch.device("meta"):  # its tensors are replaced at once
        new = SyncBatchNorm(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    new.weight, new.bias = norm.weight, norm.bias
    new.running_mean, new.running_var, new.num_batches_tracked = norm.running_mean, norm.running_var, norm.num_batches_tracked
    for name, child in norm.named_children():
        new.add_module(name, child)
    return new.train(norm.training)
