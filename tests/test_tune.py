"""`jepa tune` tries a recipe with other settings, one by one, and names those that are faster and compute the same."""

import math
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
from warm_process import WarmJepa

from jepa_pipeline.commands.tune import describe, sigterm_as_ctrl_c, tune
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.training.device_peak import known_peak
from jepa_pipeline.training.parts import OBJECTS
from jepa_pipeline.training.trial import TrialRecorder
from jepa_pipeline.tuning import process
from jepa_pipeline.tuning.comparison import Measured, Trial, compare, winners
from jepa_pipeline.tuning.process import OUT_OF_MEMORY, last_words
from jepa_pipeline.tuning.search import Search
from jepa_pipeline.tuning.trials import Machine, list_trials

IJEPA, VICREG = (Path(__file__).parents[1] / f"configs/debug/{name}.yaml" for name in ("ijepa", "vicreg"))


def measured(step_s, losses=(1.0, 2.0), start_s=None):
    return Measured([*losses], step_s, start_s or step_s, waiting=0.0, memory_bytes=1)


PLAIN, OTHER_SEED = measured(1.0), measured(1.0, (1.3, 2.3))


def compare_two(trial, steps=10):
    return compare(Trial(["a=1"], trial), [PLAIN, OTHER_SEED], OTHER_SEED, steps)


def test_losses_further_away_than_those_of_another_seed_are_refused():
    assert not compare_two(measured(0.5, (1.29, 2.29))).refused
    assert compare_two(measured(0.5, (1.31, 2.31))).refused
    assert compare_two(measured(0.5, (math.nan, 2.0))).refused
    assert compare(Trial([], measured(0.5, (1.0, 2.1))), [PLAIN], None, 10).refused, "without a second seed all that differs is"


def test_a_trial_that_took_fewer_steps_is_compared_on_those():
    assert compare_two(measured(0.5, (1.0,))).difference == 0.0


def test_the_time_of_the_first_step_counts_in_a_short_run_and_not_in_a_long_one():
    compiled = measured(0.5, start_s=20.0)
    assert compare_two(compiled, steps=10).speed < 1 < compare_two(compiled, steps=1000).speed < 2


def test_what_is_not_faster_than_chance_is_not_used():
    fast, slow, refused = (
        compare(Trial([name], one), [PLAIN], OTHER_SEED, 10)
        for name, one in (("a=1", measured(0.5)), ("b=1", measured(0.98)), ("c=1", measured(0.1, (5.0, 5.0))))
    )
    failed = compare(Trial(["d=1"], None, "out of memory"), [PLAIN], OTHER_SEED, 10)
    assert winners([slow, failed, refused, fast], spread=1.0) == [fast]
    assert winners([slow, failed, refused, fast], spread=2.1) == []


def test_of_two_values_of_a_key_only_the_faster_is_used():
    one, two = (compare(Trial([f"a={s}"], measured(s)), [PLAIN], OTHER_SEED, 10) for s in (0.5, 0.4))
    assert winners([one, two], spread=1.0) == [two]


@pytest.mark.parametrize("accelerator", ["cpu", "cuda"])
@pytest.mark.parametrize(
    "overrides", [[], ["optim.accumulate_steps=2"], ["trainer.devices=2", "trainer.strategy=fsdp2"], ["views.device=workers"]]
)
def test_every_trial_is_a_valid_recipe_with_one_thing_changed(tiny, tmp_path, accelerator, overrides):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny(*overrides)))
    config = load_config(recipe)
    trials = list_trials(config, Machine(accelerator, devices=4, cores=8))
    assert len({tuple(trial) for trial in trials}) == len(trials)
    for trial in trials:
        changed = load_config(recipe, trial)
        assert changed != config and changed.optim.batch_size_global == config.optim.batch_size_global, trial


def test_a_method_that_compares_samples_keeps_its_micro_batches():
    keys = {trial[0].partition("=")[0] for trial in list_trials(load_config(VICREG, ["data.train=nowhere"]), Machine("cpu", 1, 4))}
    assert "optim.accumulate_steps" not in keys and "trainer.compile" in keys


def test_several_gpus_of_a_machine_are_tried(tiny):
    trials = list_trials(tiny(), Machine("cuda", devices=2, cores=8))
    assert ["trainer.devices=2", "trainer.strategy=ddp"] in trials and ["trainer.devices=2", "trainer.strategy=fsdp2"] in trials


class WarmProcess:
    """What process.train uses of subprocess.Popen, with torch already imported."""

    def __init__(self, command, *, env, stdout, **_):
        *_, recipe = command
        mine = f"/proc/{os.getpid()}/fd"  # a process of the fork server has no open files of this one
        objects = env[OBJECTS].replace("/proc/self/fd", mine)
        self.stdout, self.jepa = stdout, WarmJepa(["pretrain", recipe.replace("/proc/self/fd", mine)], variables={OBJECTS: objects})

    def wait(self):
        self.stdout.write("".join(self.jepa.communicate()).encode())
        return self.jepa.returncode

    def kill(self):
        assert self.jepa.returncode is not None


def test_a_recipe_is_tried_and_nothing_of_it_stays(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(process.subprocess, "Popen", WarmProcess)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    config = tiny("trainer.threads=1")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(config))
    found = tune(recipe, steps=4, seconds=5, only=["optim.accumulate_steps"])
    plain, accumulated = found["trials"][:2]
    assert plain["loss_difference"] == 0 and plain["steps"] == 4
    # the mean of two halves is that of the whole batch, but for rounding
    assert accumulated["loss_difference"] < 1e-5 < found["noise"]
    assert all(row["memory_bytes"] > 0 and row["samples_per_s"] > 0 for row in (plain, accumulated))
    printed = capsys.readouterr().out
    assert "the whole run takes about" in printed and "use: " in printed
    assert not config.folder.exists() and found["costs"]["plain"]["checkpoint_bytes"] > 0
    assert not list((tmp_path / "temporary").glob("jepa-tune-*"))


class CannedProcesses:
    """Results of trials, by their configuration."""

    def __init__(self, results):
        self.results, self.configs = results, []

    def run(self, config, count_flops=False):
        self.configs.append(config)
        return self.results(config)


def search(results, only=(), recipe=None, overrides=("data.train=nowhere",)):
    said, processes = [], CannedProcesses(results)
    machine = Machine("cpu", 1, 4)
    found = Search(recipe or IJEPA, overrides, processes, machine, said.append).run(only, lambda *_: nullcontext(lambda _: None))
    return found, processes


def test_settings_that_cannot_work_here_are_a_row_with_their_reason():
    found, _ = search(lambda config: "no blocks" if config.trainer.checkpoint_activations else measured(1.0))
    [row] = [one for one in found.compared if one.trial.measured is None]
    assert row.trial.name == "trainer.checkpoint_activations=true" and row.trial.problem == "no blocks"
    assert found.chosen == found.plain


def test_the_faster_settings_are_tried_together_and_the_fastest_trial_is_used():
    def results(config):
        return measured((0.5 if config.trainer.threads == 1 else 1.0) * (0.5 if config.trainer.compile else 1.0))

    found, _ = search(results, ["trainer.threads", "trainer.compile"])
    assert sorted(found.chosen.trial.overrides) == ["trainer.compile=true", "trainer.threads=1"]
    assert found.chosen.speed == pytest.approx(4) and found.spread == 1


def test_what_else_the_machine_does_widens_the_chance():
    """The recipe as it is takes one second, and once, with another seed, three: a setting twice as fast shows nothing."""
    seed = load_config(IJEPA, ["data.train=nowhere"]).seed
    found, _ = search(lambda config: measured(0.5 if config.trainer.threads == 1 else 1.0 if config.seed == seed else 3.0))
    assert found.spread == 3 and found.chosen == found.plain


def test_a_recipe_that_needs_too_much_memory_is_tried_in_smaller_micro_batches():
    def results(config):
        return measured(1.0) if config.optim.accumulate_steps >= 4 else OUT_OF_MEMORY

    found, processes = search(results, ["trainer.threads"])
    assert found.plain.trial.overrides == ["optim.accumulate_steps=4"]
    assert all(config.optim.accumulate_steps == 4 for config in processes.configs[2:])
    with pytest.raises(UserError, match=r"cannot be trained here: out of memory: lower optim\.batch_size_global"):
        search(lambda _: OUT_OF_MEMORY)
    with pytest.raises(UserError, match="cannot be trained here: the shard is damaged"):
        search(lambda _: "the shard is damaged")


def test_mistakes_are_found_before_a_trial_takes_its_time():
    for only, overrides, says in (
        (["optim.lr"], [], r"--only optim\.lr: here only .*trainer\.compile.* can be tried"),
        ([], ["optim.total_samples=32", "optim.warmup_samples=0"], r"has 1 step, .*: raise optim\.total_samples"),
    ):
        with pytest.raises(UserError, match=says):
            search(pytest.fail, only, overrides=["data.train=nowhere", *overrides])


def test_the_share_of_the_peak_is_that_of_the_trials_own_precision_and_devices():
    row = measured(1.0)._replace(step_flops=1e15)
    found, _ = search(lambda _: row, ["trainer.precision"])
    bf16, several = (load_config(IJEPA, ["data.train=nowhere", *more]) for more in (
        ["trainer.precision=bf16"], ["trainer.precision=bf16", "trainer.devices=2"]))  # fmt: skip
    shares = [describe(found.plain, config, found, "NVIDIA H200")["mfu"] for config in (bf16, several)]
    assert shares[0] == pytest.approx(1e15 / known_peak("H200", "bf16")) and shares[1] == pytest.approx(shares[0] / 2)
    assert "mfu" not in describe(found.plain, load_config(IJEPA, ["data.train=nowhere"]), found, "NVIDIA H200")


def train_for_ever(folder):
    """Start a trial whose process says who it is and sleeps."""
    os.chdir(folder)
    os.dup2(os.open("stderr", os.O_CREAT | os.O_WRONLY), 2)
    program = folder / "endless"
    program.write_text("#!/bin/sh\necho $$ > pid.part\nmv pid.part pid\nexec sleep 1000\n")
    program.chmod(0o755)
    sys.executable = str(program)
    with sigterm_as_ctrl_c():
        process.train(load_config(IJEPA, ["data.train=nowhere"]), TrialRecorder(folder / "result", 3, 1.0, False), folder / "log")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_trial_ends_with_the_command_however_that_ends(number, tmp_path):
    command = multiprocessing.get_context("fork").Process(target=train_for_ever, args=(tmp_path,))
    command.start()
    while not (tmp_path / "pid").exists():  # a hang is ended by the suite's own time limit
        assert command.is_alive()
        time.sleep(0.02)
    os.kill(command.pid, number)
    command.join()
    assert command.exitcode not in (0, None)
    program = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/cmdline")
    while program.exists() and b"sleep" in program.read_bytes():
        time.sleep(0.02)


@pytest.mark.slow
def test_two_processes_are_tried_in_both_ways(tiny, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(tiny("trainer.threads=1", "trainer.devices=2")))
    found = tune(recipe, steps=4, seconds=20, only=["trainer.strategy"])
    assert found["trials"][1]["trial"] == "trainer.strategy=fsdp2" and found["trials"][1]["loss_difference"] < 1e-5
    assert found["costs"]["plain"]["device_hours"] == pytest.approx(2 * found["costs"]["plain"]["hours"])


def test_a_want_of_memory_is_told_from_other_failures():
    assert (
        last_words("warning\nrank 0: the memory is not enough for micro-batches of 8 samples (in step 1): raise\n")
        == "out of memory"
    )
    assert last_words("one\n\nthe shard is damaged\n") == "the shard is damaged"


def test_a_peak_is_that_of_the_first_name_that_fits():
    assert known_peak("NVIDIA H100 PCIe", "bf16") < known_peak("NVIDIA H100 80GB HBM3", "bf16") == known_peak("NVIDIA H200", "bf16")
    assert known_peak("NVIDIA H200", "fp32") is None and known_peak("a new GPU", "bf16") is None
