"""Probes during training: which are started, with what, and what happens when they fail."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.commands.submit import build_spec
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.models.weights import load_encoder, read_card
from jepa_pipeline.results.probe_report import load_report
from jepa_pipeline.training import online_eval as probing
from jepa_pipeline.training.checkpoint_callback import CheckpointCallback

QUIET = Console(quiet=True)
BESIDE = ["probing.submit=false", "probing.every_steps=2"]


class Started:
    """A fake process that records how it was started."""

    code: int | None = 0

    def __init__(self, command, env, stdout, **options):
        self.command, self.env, self.options, self.log = command, env, options, Path(stdout.name)
        self.returncode = None

    def poll(self):
        self.returncode = self.code
        return self.code

    def wait(self, timeout):
        if self.poll() is None:
            raise subprocess.TimeoutExpired(self.command, timeout)


@pytest.fixture
def started(monkeypatch):
    """The fake processes that are started instead of probes."""
    found = []

    def start(*arguments, **options):
        found.append(Started(*arguments, **options))
        return found[-1]

    monkeypatch.setattr(probing, "Popen", start)
    return found


@pytest.fixture
def cluster(monkeypatch, tmp_path):
    """Make a cluster to submit to, and return its site file."""
    monkeypatch.setattr(probing, "which", lambda name: f"/usr/bin/{name}")
    site = tmp_path / "site.yaml"
    site.write_text("time: 10\n")
    return site


def steps_of(started):
    return [int(Path(one.command[one.command.index("probe") + 1]).name.removeprefix("step-")) for one in started]


def test_every_due_step_is_probed_beside_the_training(tiny, shards):
    config = tiny(*BESIDE, f"probing.arguments=[--data, {shards}, 'protocols=[knn]', 'workers=0']", "probing.every_steps=3")
    pretrain(config, QUIET)
    while len(found := [*(config.folder / "probes").glob("*.json")]) < 2:
        said = "".join(log.read_text() for log in (config.folder / "snapshots").glob("*.log"))
        assert "Traceback" not in said, said  # a hang is ended by the time limit of the suite
        time.sleep(0.1)
    assert sorted(load_report(path).step for path in found) == [3, 6]
    assert (read_card(config.folder / "snapshots/step-00000003").samples, read_card(config.folder).step) == (24, 6)
    final, kept = load_encoder(config.folder), load_encoder(config.folder / "snapshots/step-00000006")
    assert all(torch.equal(mine, other) for mine, other in zip(kept.parameters(), final.parameters(), strict=True))


def test_a_job_is_submitted_with_nothing_of_this_one(tiny, cluster, started, monkeypatch):
    gone = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "GROUP_RANK", "TORCHELASTIC_RUN_ID"]
    gone += ["SLURM_JOB_ID", "SLURM_NTASKS", "SBATCH_PARTITION", "SRUN_CPUS_PER_TASK", "SUBMITIT_EXECUTOR", "CUDA_VISIBLE_DEVICES"]
    here = {**dict.fromkeys(gone, "1"), "SLURM_CONF": "/etc/slurm.conf", "HOME": "/root"}
    config = tiny("probing.every_steps=3", f"probing.site={cluster}", "probing.arguments=[--data, d]")
    pretrain(config, QUIET)
    snapshot = config.folder / "snapshots/step-00000003"
    submit = [sys.executable, "-m", "jepa_pipeline", "submit", "--site", str(cluster), "probe"]
    assert started[0].command == [*submit, str(snapshot), "--data", "d"]
    assert started[0].log == config.folder / "snapshots/step-00000003.log" and started[0].options["start_new_session"]
    assert {"PATH", "HOME"} & started[0].env.keys()
    assert probing.probe_environment(here, config.probing) == {"SLURM_CONF": "/etc/slurm.conf", "HOME": "/root"}
    beside = config.probing.model_copy(update={"submit": False})
    assert "CUDA_VISIBLE_DEVICES" in probing.probe_environment(here, beside)
    assert probing.probe_command(snapshot, beside) == [*submit[:3], "probe", str(snapshot), "--data", "d"]


def killed_after(monkeypatch, step):
    """End the run as if it were killed between a snapshot and its checkpoint; return a function that undoes this."""
    original = CheckpointCallback.on_step

    def on_step(self, trainer, module):
        if module.step == step:
            raise RuntimeError("killed")
        original(self, trainer, module)

    monkeypatch.setattr(CheckpointCallback, "on_step", on_step)
    return lambda: monkeypatch.setattr(CheckpointCallback, "on_step", original)


def test_a_resumed_run_probes_no_snapshot_twice(tiny, started, monkeypatch):
    config, again = tiny(*BESIDE, "checkpoint.every_steps=1"), killed_after(monkeypatch, 4)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(config, QUIET)
    assert steps_of(started) == [2, 4]
    written = (config.folder / "snapshots/step-00000004/model.safetensors").stat().st_ino
    again()
    pretrain(config, QUIET)
    assert steps_of(started) == [2, 4, 6]
    assert (config.folder / "snapshots/step-00000004/model.safetensors").stat().st_ino == written


def test_a_resumed_run_loses_no_snapshot(tiny, started, monkeypatch):
    """It was killed before a probe was started, or while it wrote a snapshot."""
    config, again = tiny(*BESIDE, "checkpoint.every_steps=1"), killed_after(monkeypatch, 5)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(config, QUIET)
    snapshots = config.folder / "snapshots"
    (snapshots / "step-00000002" / probing.STARTED).unlink()
    (snapshots / ".step-00000006").mkdir()
    (snapshots / ".step-00000006/model.safetensors").write_text("half")
    again()
    pretrain(config, QUIET)
    assert steps_of(started) == [2, 4, 2, 6]
    assert read_card(snapshots / "step-00000006").step == 6 and not (snapshots / ".step-00000006").exists()


def test_a_submitted_probe_is_known_by_its_record(tiny, cluster, started, monkeypatch):
    """Without one it was not submitted."""
    from datetime import datetime

    from jepa_pipeline.cluster.records import JobRecord, save_record

    config = tiny("probing.every_steps=2", f"probing.site={cluster}", "checkpoint.every_steps=1")
    again, folder = killed_after(monkeypatch, 5), config.folder / "jobs"
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(config, QUIET)
    words, now = ("probe", "--data", "d", str(config.folder / "snapshots/step-00000002")), datetime.now().astimezone()
    save_record(JobRecord(id="7", name="probe", command=words, cwd=Path.cwd(), folder=folder, submitted=now, log="x"))
    again()
    pretrain(config, QUIET)
    assert steps_of(started) == [2, 4, 4, 6]


def test_the_job_of_a_snapshot_is_one_of_its_run():
    of_run, of_snapshot = (
        build_spec(("probe",), ["probe"], Path("runs/a", *inner)) for inner in ((), ("snapshots", "step-00000002"))
    )
    assert (of_run.name, of_snapshot.name) == ("probe-a", "probe-step-00000002-a")
    assert of_run.folder == of_snapshot.folder == Path("runs/a/jobs")


def test_snapshots_of_another_run_in_this_folder_are_replaced(tiny, started, monkeypatch):
    killed_after(monkeypatch, 3)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(tiny(*BESIDE), QUIET)
    with pytest.raises(RuntimeError, match="killed"):
        pretrain(tiny(*BESIDE, "seed=1"), QUIET)
    assert steps_of(started) == [2, 2]
    assert read_card(tiny().folder / "snapshots/step-00000002").config_hash == tiny("seed=1").hash()


def test_failures_are_reported_once_and_do_not_end_the_run(tiny, started, monkeypatch, tmp_path):
    monkeypatch.setattr(Started, "code", 2)
    with (tmp_path / "said").open("w") as file:
        pretrain(config := tiny(*BESIDE, "probing.every_steps=3"), Console(file=file))
    said = (tmp_path / "said").read_text()
    for step in (3, 6):
        log = config.folder / f"snapshots/step-0000000{step}.log"
        assert said.count(f"step-0000000{step} failed, but training continues: see {log}\n") == 1
    assert not [*config.folder.glob("snapshots/*/asked")] and read_card(config.folder).step == 6


def test_probes_that_outlive_the_run_are_named(tiny, started, monkeypatch, tmp_path):
    monkeypatch.setattr(Started, "code", None)
    with (tmp_path / "said").open("w") as file:
        pretrain(tiny(*BESIDE, "probing.every_steps=3"), Console(file=file))
    assert "probes of step-00000003, step-00000006 are still running; their results will be in" in (tmp_path / "said").read_text()


def test_a_full_disk_under_a_snapshot_does_not_end_the_run(tiny, started, monkeypatch, tmp_path):
    def refuse(folder, weights, card):
        raise UserError("encoder x could not be written (no space)")

    monkeypatch.setattr(probing, "save_weights", refuse)
    with (tmp_path / "said").open("w") as file:
        pretrain(config := tiny(*BESIDE), Console(file=file))
    assert "step 2 is not probed, but training continues: encoder x could not" in (tmp_path / "said").read_text()
    assert not started and read_card(config.folder).step == 6


def test_a_missing_slurm_is_reported_before_the_first_step(tiny, monkeypatch):
    config = tiny("probing.every_steps=2")
    monkeypatch.setattr(probing, "which", lambda name: None)
    with pytest.raises(
        UserError, match=r"^probing.every_steps is 2 and probing.submit is true, but there is no sbatch on PATH: set"
    ):
        pretrain(config, QUIET)
    assert not config.folder.exists()


def test_an_invalid_site_is_reported_before_the_first_step(tiny, cluster):
    cluster.write_text("partition: main\n")
    config = tiny("probing.every_steps=2", f"probing.site={cluster}")
    with pytest.raises(UserError, match="time"):
        pretrain(config, QUIET)
    assert not config.folder.exists()


def test_how_a_run_is_probed_may_change(tiny, started):
    pretrain(tiny(), QUIET)
    assert tiny().hash() == tiny(*BESIDE).hash()
    pretrain(tiny(*BESIDE), QUIET)
    assert not started
