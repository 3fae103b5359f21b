"""The DataLoader of training and evaluation. The number of workers changes how fast batches come, never their content."""

from collections.abc import Sequence

from jepa_pipeline.config.data import WINDOW_SHARDS, DataConfig
from jepa_pipeline.config.method import BaseMethodConfig
from jepa_pipeline.config.optim import ScheduleConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.data.custom import open_source
from jepa_pipeline.data.dataset import MaskSampler, TrainDataset
from jepa_pipeline.data.media import check_kind, check_stored
from jepa_pipeline.data.mixture import Mixture
from jepa_pipeline.data.sampler import DistributedBatchSampler, ShardSampler
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.data.workers import Loader, build_loader


def train_loader(
    data: DataConfig,
    views: ViewsConfig,
    method: BaseMethodConfig,
    masks: Sequence[MaskSampler],
    batch_sampler: DistributedBatchSampler,
    *,
    seed: int,
    pin_memory: bool = False,
    crop_on_device: bool = False,
) -> Loader:
    """Return the loader of the micro-batches of a run that a batch sampler lists.

    Args:
        data: the shards and the workers.
        views: how views are made.
        method: its encoder determines the kind and size of the views.
        masks: one sampler per mask set. Workers run them, so they must be picklable where workers are spawned.
        batch_sampler: the stream indices of each micro-batch.
        seed: seed of the run.
        pin_memory: copy batches to pinned memory.
        crop_on_device: batches contain whole images and the parameters of their crops instead of views.

    Raises:
        UserError: a data set is incomplete, or holds videos for an image encoder; a sample is unusable, as SampleError,
            while iterating.
    """
    sources = [open_source(source, data) for source in data.train]
    for shards in sources:
        check_kind(shards.location, shards.manifest.kind, method)
        check_stored(shards.location, shards.manifest, shards.form)
    mixture = build_mixture(data, seed, sources)
    skip_damaged, batch_size = data.damage.policy == "skip", batch_sampler.batch_size_global
    dataset = TrainDataset(sources, mixture, views, method.encoder, masks, skip_damaged, batch_size, crop_on_device)
    return build_loader(dataset, batch_sampler, data.workers, data.prefetch_batches, pin_memory)


def build_mixture(data: DataConfig, seed: int, sources: Sequence[Shards]) -> Mixture:
    samplers = [ShardSampler(shards.counts, seed, WINDOW_SHARDS, source) for source, shards in enumerate(sources)]
    return Mixture(samplers, [source.weight for source in data.train])


def build_batch_sampler(
    optim: ScheduleConfig, rank: int = 0, world_size: int = 1, start_samples: int = 0
) -> DistributedBatchSampler:
    """Return the sampler of a rank's micro-batches from sample start_samples to the end of the run."""
    return DistributedBatchSampler(
        optim.batch_size_global,
        optim.total_samples,
        accumulate_steps=optim.accumulate_steps,
        rank=rank,
        world_size=world_size,
        start_samples=start_samples,
    )
