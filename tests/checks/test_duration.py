"""The time of a whole run, from timed steps."""

import pytest

from jepa_pipeline.checks import duration
from jepa_pipeline.checks.duration import check_duration, format_duration
from jepa_pipeline.commands.check_config import check_config
from jepa_pipeline.training import timing
from jepa_pipeline.training.timing import StepTime, combine, time_step


def test_a_step_is_timed_on_samples_of_the_run_and_nothing_is_written(tiny):
    config = tiny()
    timed = time_step(config, "cpu")
    assert timed.samples == 8 and timed.compute_s > 0 and timed.load_s > 0
    assert timed.step_s == pytest.approx(8 * (timed.compute_s + timed.load_s))
    assert not config.folder.exists()


def test_few_samples_are_enough_if_they_take_long(tiny, monkeypatch):
    monkeypatch.setattr(timing, "LONG_ENOUGH_S", 0.0)
    config = tiny("optim.batch_size_global=48")
    timed = time_step(config, "cpu")
    assert timed.samples == timing.FEW_SAMPLES
    assert timed.step_s == pytest.approx(48 * (timed.compute_s + timed.load_s))


@pytest.mark.parametrize(
    ("workers", "device", "cores", "expected"),
    [
        (0, "cpu", 8, 8 * (0.1 + 0.4)),  # the training process decodes
        (0, "cuda", 8, 8 * (0.1 + 0.4)),
        (2, "cuda", 8, 8 * 0.2),  # two workers are slower than the device
        (8, "cuda", 8, 8 * 0.1),  # eight are faster
        (8, "cuda", 2, 8 * 0.2),  # unless they share two cores
        (8, "cpu", 8, 8 * (0.1 + 0.4 / 8)),  # on CPUs both share the cores
    ],
)
def test_workers_load_while_the_device_computes(tiny, monkeypatch, workers, device, cores, expected):
    monkeypatch.setattr(timing, "available_cores", lambda: cores)
    assert combine(tiny(f"data.workers={workers}"), device, 0.1, 0.4) == pytest.approx(expected)


def test_several_gpus_and_machines_share_a_batch(tiny, monkeypatch):
    monkeypatch.setattr(timing, "available_cores", lambda: 64)
    config = tiny("data.workers=8", "trainer.devices=2", "trainer.nodes=2", "trainer.accelerator=auto")
    assert combine(config, "cuda", 0.1, 0.4) == pytest.approx(8 * 0.05 / 2)


def test_a_run_of_weeks_is_a_warning_with_the_estimate(tiny, monkeypatch, capsys):
    monkeypatch.setattr(duration, "time_step", lambda *_: StepTime(16, 0.3, 0.01, 7 * 24 * 3600.0))
    (result,) = check_duration(tiny())
    assert result.level == "warn" and "about 6 weeks on this machine (cpu): 6 steps of 7 days" in result.text and result.cure
    check_config(tiny(), timed=True)
    assert "warning: the run would take about 6 weeks" in capsys.readouterr().err
    monkeypatch.setattr(duration, "time_step", lambda *_: StepTime(16, 0.3, 0.01, 60.0))
    check_config(tiny(), timed=True)
    said = capsys.readouterr().out
    assert "the run would take about 6 minutes" in said and "communication between several is not counted" in said


def test_data_that_cannot_be_read_cannot_be_timed(tiny):
    (result,) = check_duration(tiny("data.train=/no/such/train"))
    assert result.level == "fail" and "no step can be timed: /no/such/train is not a folder" in result.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.052, "0.052 s"),
        (90, "90 s"),
        (150, "2.5 minutes"),
        (3 * 3600, "3 hours"),
        (5.5 * 86400, "5.5 days"),
        (30 * 86400, "4.3 weeks"),
    ],
)
def test_times_have_a_unit_that_fits(seconds, text):
    assert format_duration(seconds) == text
