"""What tests of the watchdog wait for before they stop or kill a process."""

from jepa_pipeline.training.watchdog import Watchdog


def has_heard_from_all(watchdog: Watchdog) -> bool:
    """Return whether all that this process monitors were heard of after their start.

    Until then more time passes before they count as dead, and the verdict says that they were in their start.
    """
    beats = [watchdog.heartbeats.get(rank) for rank in watchdog.table.monitored]
    return all(beat is not None and beat.count > 0 and beat.stage != "start" for beat in beats)
