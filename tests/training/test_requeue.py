"""Whether a job that ends before its run goes back into the queue: what each signal means, and that it is never for ever."""

import json

import pytest

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.trainer import TrainerConfig
from jepa_pipeline.training.processes import read_rank_info
from jepa_pipeline.training.requeue import REQUEUES, read_job_ends, requeue_after_failure, requeue_after_stop
from jepa_pipeline.training.restarts import COUNT, LIMIT, REASON, report_restart

JOB = (
    "JobId=77 JobName=a JobState={state} Reason={reason} Dependency=(null) Requeue={may} Restarts={restarts} BatchFlag={batch} "
    "Reboot=0 ExitCode=0:0"
)


class Slurm:
    """A scontrol on PATH. What it knows of the job is in `job`, what it was asked in asked()."""

    def __init__(self, folder, monkeypatch):
        self.folder = folder
        self.refuses = ""
        self.job = {"state": "RUNNING", "reason": "None", "may": 1, "restarts": 0, "batch": 1}
        monkeypatch.setenv("PATH", str(folder), prepend=":")
        monkeypatch.setenv("SLURM_JOB_ID", "77")
        monkeypatch.delenv("SLURM_RESTART_COUNT", raising=False)

    def write(self):
        script = self.folder / "scontrol"
        refusal = f'echo "{self.refuses}" >&2; exit 1' if self.refuses else "exit 0"
        script.write_text(
            f'#!/bin/sh\n[ $1 = requeue ] && {{ echo "$@" >> {self.folder}/asked; {refusal}; }}\necho "{JOB.format(**self.job)}"\n'
        )
        script.chmod(0o755)

    def requeued(self):
        path = self.folder / "asked"
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    return Slurm(tmp_path / "bin", monkeypatch)


@pytest.fixture
def stop(slurm, tmp_path):
    """Stop a run by a signal, in a job that is so; whether it was requeued, and what was said."""

    def act(name="SIGUSR1", step=100, **job):
        slurm.job |= job
        slurm.write()
        said = []
        return requeue_after_stop(tmp_path, name, step, said.append), " | ".join(said)

    return act


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGUSR2", "USR1", "SIGTERM"])
def test_what_a_running_job_is_sent_puts_it_back(stop, slurm, tmp_path, name):
    assert stop(name) == (True, "job 77 is requeued, and resumes after step 100")
    assert slurm.requeued() == ["requeue 77"]
    [end] = read_job_ends(tmp_path)
    assert (end.job, end.restarts, end.step, end.saved, end.requeued) == ("77", 0, 100, 100, True)
    assert end.reason == f"SIG{name.removeprefix('SIG')}"


STAYS = {
    "by hand": ({"name": "SIGINT"}, "it was interrupted by hand"),
    "canceled": ({"name": "SIGTERM", "state": "COMPLETING"}, "CANCELLED"),
    "canceled after it was warned": ({"name": "SIGUSR1", "state": "COMPLETING"}, "CANCELLED"),
    "by an administrator": ({"name": "SIGTERM", "state": "COMPLETING", "restarts": 1}, "it is in the queue already"),
    "time limit unannounced": (
        {"name": "SIGTERM", "state": "COMPLETING", "reason": "TimeLimit"},
        "submit it with --signal=USR1@120",
    ),
    "not wished": ({"name": "SIGUSR1", "may": 0}, "it was submitted with --no-requeue"),
    "interactive": ({"name": "SIGUSR1", "batch": 0}, "only what sbatch submitted can be"),
}


@pytest.mark.parametrize("case", STAYS)
def test_what_stays_out_of_the_queue_says_why(stop, slurm, tmp_path, case):
    asked, why = STAYS[case]
    requeued, said = stop(**asked)
    assert not requeued and why in said and said.startswith("job 77 is not requeued: ")
    assert slurm.requeued() == []
    assert [end.requeued for end in read_job_ends(tmp_path)] == [False]


def test_a_limit_that_came_while_the_announced_checkpoint_was_written_is_no_cancellation(stop):
    assert stop("SIGUSR1", state="COMPLETING", reason="TimeLimit")[0]


def test_a_job_of_which_slurm_says_nothing_may_have_been_canceled(stop, slurm, tmp_path):
    slurm.write()
    (slurm.folder / "scontrol").write_text("#!/bin/sh\necho no such job >&2\nexit 1\n")
    said = []
    assert not requeue_after_stop(tmp_path, "SIGUSR1", 5, said.append)
    assert "no such job" in said[0] and "it may have been canceled" in said[1]
    assert [(end.job, end.requeued) for end in read_job_ends(tmp_path)] == [("77", False)]


def test_a_refusal_is_told_and_noted(stop, slurm, tmp_path):
    slurm.refuses = "Access/permission denied"
    requeued, said = stop()
    assert not requeued and "Slurm refuses (Access/permission denied)" in said
    assert [end.requeued for end in read_job_ends(tmp_path)] == [False]


def test_outside_slurm_nothing_happens(tmp_path, monkeypatch):
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    assert not requeue_after_stop(tmp_path, "SIGTERM", 5, pytest.fail)
    assert not requeue_after_failure(tmp_path, "rank 1 is silent", 5, pytest.fail)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_gains_steps_comes_back_as_often_as_it_likes(stop):
    assert all(stop(step=step)[0] for step in range(10, 200, 10))


def test_twice_without_progress_is_enough(stop):
    assert [stop(step=step)[0] for step in (100, 100, 150, 150)] == [True, True, True, True]
    requeued, said = stop("SIGTERM", step=150)
    assert not requeued
    assert "it ended twice without getting beyond step 150 (now: SIGTERM, before: SIGUSR1); give it more time" in said


def test_a_limit_before_the_first_step_counts(stop):
    assert [stop(step=0)[0] for _ in range(3)] == [True, False, True]
    # the third is a job that a person put back: it has its own two tries


def test_another_job_of_the_run_has_its_own_tries(stop, tmp_path):
    assert stop(step=0)[0]
    path = tmp_path / REQUEUES
    path.write_text(json.dumps(json.loads(path.read_text()) | {"job": "76"}) + "\n")
    assert stop(step=0)[0]


def test_after_a_failure_only_what_is_saved_counts_as_progress(slurm, tmp_path):
    slurm.write()
    (tmp_path / "checkpoints" / "step-00000100").mkdir(parents=True)
    ends = [requeue_after_failure(tmp_path, "rank 1 on node2 is silent", step, lambda _: None) for step in (150, 170, 190)]
    assert ends == [True, True, False]
    assert [(end.step, end.saved) for end in read_job_ends(tmp_path)] == [(150, 100), (170, 100), (190, 100)]


def test_a_canceled_job_that_hangs_does_not_come_back(slurm, tmp_path):
    slurm.job["state"] = "COMPLETING"
    slurm.write()
    assert not requeue_after_failure(tmp_path, "rank 1 on node2 is silent", 5, lambda _: None)


def test_half_a_line_of_a_killed_process_hides_no_other(stop, tmp_path):
    (tmp_path / REQUEUES).write_text('{"time": "2026-')
    assert stop(step=0)[0]
    assert not stop(step=0)[0]


def test_a_broken_line_hides_no_other_and_is_kept(stop, tmp_path, capsys):
    stop(step=5)
    path = tmp_path / REQUEUES
    before = path.read_bytes()
    path.write_bytes(b"{broken\n" + before)
    stop(step=9)
    assert [end.step for end in read_job_ends(tmp_path)] == [5, 9]
    assert (tmp_path / f"{REQUEUES}.damaged").read_bytes() == b"{broken\n" + before
    assert "1 of 2 lines cannot be read and are passed over; the file as it was is kept as" in capsys.readouterr().err


@pytest.fixture
def restarted(tmp_path, monkeypatch):
    """Report a restart in place that the launcher announces by these variables; what was said."""

    def report(saved, **variables):
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        said = []
        report_restart(tmp_path, saved, said.append)
        return said

    return report


def test_a_restart_in_place_is_a_line_with_its_number_reason_and_steps(restarted, tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 160}\n{"step": 170}\n')
    ours = {COUNT: "1", LIMIT: "2", REASON: "rank 1 was killed by SIGKILL"}
    assert restarted(150, **ours) == ["restart 1 of 2 (rank 1 was killed by SIGKILL): the run resumes after step 150"]
    assert restarted(0, **ours | {COUNT: "2", REASON: ""}) == [
        "restart 2 of 2 (torchrun started the processes again): the run starts over, since there is no checkpoint yet"
    ]
    ends = [(end.in_place, end.reason, end.step, end.saved, end.requeued, end.job) for end in read_job_ends(tmp_path)]
    assert ends == [
        (1, "rank 1 was killed by SIGKILL", 170, 150, False, ""),
        (2, "torchrun started the processes again", 170, 0, False, ""),
    ]


def test_the_first_start_is_no_restart(restarted, tmp_path):
    assert restarted(5) == restarted(5, **{COUNT: "0", LIMIT: "3"}) == []
    assert list(tmp_path.iterdir()) == []


def test_restarts_in_place_are_no_ends_of_a_job_without_progress(stop, restarted, tmp_path):
    assert stop(step=100)[0]
    for count in "123":
        restarted(100, **{COUNT: count, LIMIT: "3"})
    assert stop(step=100)[0], "a second end at the same step is the first without progress"
    assert not stop(step=100)[0]
    assert [end.in_place for end in read_job_ends(tmp_path)] == [0, 1, 2, 3, 0, 0]


def test_lines_of_an_earlier_version_are_read(stop, tmp_path):
    assert stop(step=100)[0]
    path = tmp_path / REQUEUES
    line = json.loads(path.read_text())
    del line["in_place"]
    path.write_text(json.dumps(line) + "\n")
    assert [end.in_place for end in read_job_ends(tmp_path)] == [0]


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}


@pytest.mark.parametrize(("wanted", "given", "fits"), [(None, "3", True), (3, "3", True), (2, None, False), (0, "3", False)])
def test_torchrun_restarts_as_often_as_the_recipe_says(wanted, given, fits):
    environment = TORCHRUN | ({} if given is None else {LIMIT: given})
    config = TrainerConfig(restarts=wanted)
    if fits:
        assert read_rank_info(config, environment).launcher == "torchrun"
        return
    with pytest.raises(UserError, match=rf"torchrun restarts up to {given or 0} times: start it with --max-restarts={wanted}, or"):
        read_rank_info(config, environment)
