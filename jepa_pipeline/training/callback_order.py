"""The order of the callbacks of a run."""

from collections.abc import Sequence

import jepa_pipeline._torchvision  # noqa: F401  # before lightning
from jepa_pipeline.training.callbacks import DataWaitTimer, HealthMonitor, MetricsLogger
from jepa_pipeline.training.checkpoint_callback import CheckpointCallback, HeartbeatCallback
from jepa_pipeline.training.hashes import HashLogger
from jepa_pipeline.training.online_eval import OnlineEval
from jepa_pipeline.training.skipped_samples import SkippedSamples
from lightning import Callback


def order_callbacks(
    skipped: SkippedSamples,
    health: HealthMonitor,
    metrics: MetricsLogger,
    hashes: HashLogger | None,
    online_eval: OnlineEval | None,
    checkpoints: CheckpointCallback,
    stages: HeartbeatCallback,
    timer: DataWaitTimer,
    others: Sequence[Callback] = (),
) -> list[Callback]:
    """Return the callbacks in the order in which Lightning must call each hook."""
    callbacks: list[Callback | None] = [
        skipped,  # counts the samples that the other callbacks log, save and compare
        health,
        metrics,
        hashes,  # these three write the rows of a step, which must be on disk before a checkpoint that includes the step
        *others,  # the user's, before the checkpoint, so that their state in it includes the step
        online_eval,  # before the checkpoint: a run resumed from it will not take this step again and would miss the snapshot
        checkpoints,  # saves what all others have left, and ends a run that was asked to stop, so that none of them runs twice
        stages,  # after checkpoints, which report another stage to the watchdog while they save
        timer,  # last: the time of all other callbacks must not count as waiting for data
    ]
    return [callback for callback in callbacks if callback is not None]
