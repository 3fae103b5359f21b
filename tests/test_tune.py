"""`jepa tune` tries a recipe with other settings, one by one, and names those that are faster and compute the same."""

import math
from functools import partial
from pathlib import Path

import pytest

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.commands.tune import tune as tune_with
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.render import to_yaml
from jepa_pipeline.training.device_peak import known_peak
from jepa_pipeline.tuning.comparison import Measured, Trial, compare, winners
from jepa_pipeline.tuning.process import last_words
from jepa_pipeline.tuning.trials import Machine, list_trials

tune = partial(tune_with, pretrain)


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


VICREG = Path(__file__).parents[1] / "configs/debug/vicreg.yaml"


def test_a_method_that_compares_samples_keeps_its_micro_batches():
    keys = {trial[0].partition("=")[0] for trial in list_trials(load_config(VICREG), Machine("cpu", 1, 4))}
    assert "optim.accumulate_steps" not in keys and "trainer.compile" in keys


def test_several_gpus_of_a_machine_are_tried(tiny):
    trials = list_trials(tiny(), Machine("cuda", devices=2, cores=8))
    assert ["trainer.devices=2", "trainer.strategy=ddp"] in trials and ["trainer.devices=2", "trainer.strategy=fsdp2"] in trials


def test_a_recipe_is_tried_and_nothing_of_it_stays(tiny, tmp_path, capsys):
    config = tiny("trainer.threads=1")
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(to_yaml(config))
    found = tune(recipe, steps=4, seconds=5, only=["optim.accumulate_steps", "trainer.checkpoint_activations"])
    plain, accumulated, checkpointed = found["trials"][:3]
    assert plain["loss_difference"] == 0 and plain["steps"] == 4
    assert checkpointed["loss_difference"] == 0, "recomputing activations changes no bit"
    assert accumulated["loss_difference"] < 1e-5 < found["noise"], (
        "the mean of two halves is that of the whole batch, but for rounding"
    )
    assert all(row["memory_bytes"] > 0 and row["samples_per_s"] > 0 for row in (plain, accumulated, checkpointed))
    printed = capsys.readouterr().out
    assert "the whole run takes about" in printed and "use: " in printed
    assert not config.folder.exists() and found["costs"]["plain"]["checkpoint_bytes"] > 0


def test_settings_that_cannot_work_here_are_a_row_and_a_recipe_that_cannot_is_refused(shards):
    here = [f"data.train={shards / 'train'}", "trainer.accelerator=cpu", "trainer.threads=1", "data.workers=0"]
    found = tune(VICREG, here, steps=3, seconds=5, only=["trainer.checkpoint_activations"])
    assert "no transformer blocks" in found["trials"][1]["verdict"] and found["use"] == []
    with pytest.raises(UserError, match=r"--only optim\.lr: here only .*trainer\.compile.* can be tried"):
        tune(VICREG, here, steps=3, seconds=5, only=["optim.lr"])
    with pytest.raises(UserError, match=r"cannot be trained here .*no transformer blocks"):
        tune(VICREG, [*here, "trainer.checkpoint_activations=true"], steps=3, seconds=5)


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
