"""The settings that a recipe is tried with."""

from typing import NamedTuple

from jepa_pipeline.config.run import RunConfig


class Machine(NamedTuple):
    """The machine of the trials: `cpu` or `cuda`, the number of its devices, and the cores."""

    accelerator: str
    devices: int
    cores: int


def list_trials(config: RunConfig, machine: Machine) -> list[list[str]]:
    """Return the overrides of each trial, beside the recipe as it is.

    A trial changes one thing that the recipe could do in another way without computing another thing, but for rounding: what it
    compares, sees and learns from in a step stays the same.
    """
    trainer, data = config.trainer, config.data
    trials = [
        [f"trainer.compile={'false' if trainer.compile else 'true'}"],
        [f"trainer.precision={'fp32' if trainer.precision == 'bf16' else 'bf16'}"],
        *other_micro_batches(config),
        [f"trainer.checkpoint_activations={'false' if trainer.checkpoint_activations else 'true'}"],
    ]
    most_workers = max(1, machine.cores // trainer.processes)
    workers = {data.workers // 2, 2 * data.workers, most_workers} - {0, min(data.workers, most_workers)}
    trials += [[f"data.workers={count}"] for count in sorted(workers) if count <= most_workers]
    if config.method.encoder.modality.cropped_on_device:
        trials.append([f"views.device={'workers' if config.views.on_trainer(machine.accelerator) else 'trainer'}"])
    if machine.accelerator == "cpu":
        threads = {1, machine.cores // 2, machine.cores - 1} - {0, trainer.threads or machine.cores}
        trials += [[f"trainer.threads={count}"] for count in sorted(threads)]
    return trials + other_strategies(config, machine)


def other_micro_batches(config: RunConfig) -> list[list[str]]:
    """Return the trials of micro-batches of half and of twice the size, where the method does not compare samples in them."""
    steps, batch = config.optim.accumulate_steps, config.optim.batch_size_global
    if config.method.compares_samples:
        return []
    counts = [2 * steps] if batch % (2 * steps * config.trainer.processes) == 0 else []
    counts += [steps // 2] if steps % 2 == 0 else []
    return [[f"optim.accumulate_steps={count}"] for count in counts]


def other_strategies(config: RunConfig, machine: Machine) -> list[list[str]]:
    """Return the trials of other ways to use several devices; those of one machine, on which hsdp is fsdp2."""
    trainer = config.trainer
    sharded = trainer.strategy not in ("auto", "ddp")
    if trainer.processes > 1:
        return [[f"trainer.strategy={'ddp' if sharded else 'fsdp2'}"]]
    count = machine.devices
    if machine.accelerator != "cuda" or trainer.devices is not None or count < 2:
        return []
    if config.optim.batch_size_global % (count * config.optim.accumulate_steps):
        return []
    return [[f"trainer.devices={count}", f"trainer.strategy={strategy}"] for strategy in ("ddp", "fsdp2")]
