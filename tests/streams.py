"""The training stream of a run, for tests of many folders."""

from collections.abc import Sequence

from torch.utils.data import DataLoader

from jepa_pipeline.batch import Batch
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.loader import build_batch_sampler, train_loader


def load_stream(
    config: RunConfig,
    masks: Sequence[MaskSampler],
    *,
    start_samples: int = 0,
    rank: int = 0,
    world_size: int = 1,
    crop_on_device: bool = False,
) -> DataLoader[Batch]:
    """Return the loader of one rank's micro-batches from sample start_samples to the end of the run."""
    sampler = build_batch_sampler(config.optim, rank, world_size, start_samples)
    return train_loader(config.data, config.views, config.method, masks, sampler, seed=config.seed, crop_on_device=crop_on_device)
