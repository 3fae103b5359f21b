"""`jepa jobs` and `jepa logs` show every failed job and why it failed; no cluster is needed."""

from datetime import UTC, datetime

import pytest

from jepa_pipeline.cluster.logs import last_messages
from jepa_pipeline.cluster.progress import Progress
from jepa_pipeline.cluster.records import JobRecord, read_records, save_record
from jepa_pipeline.commands.jobs import NO_LOG, Job, format_table, jobs, load_states, logs


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """A function that sets the output of `sacct`; nothing is queued."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))

    def answer(*lines):
        for name, said in (("sacct", lines), ("squeue", ())):
            (folder / name).write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in said))
            (folder / name).chmod(0o755)

    return answer


def record(run, id, *command, seconds=0, **values):
    """A job that was submitted, with its record."""
    given = {"id": id, "name": f"{command[0]}-{run.name}", "command": command, "cwd": run, "folder": run / "jobs"}
    given |= {"log": str(run / f"jobs/{command[0]}-{id}.log"), "submitted": datetime.fromtimestamp(seconds, UTC)}
    made = JobRecord(**(given | values))
    save_record(made)
    return made


def test_only_the_same_task_replaces_a_failed_job(tmp_path, slurm):
    run = tmp_path / "runs/a"
    commands = {
        "1": ("pretrain", "a.yaml"),
        "2": ("pretrain", "a.yaml", "data.workers=1"),
        "3": ("probe", "runs/a", "--data", "x"),
        "4": ("probe", "runs/a", "--data", "y"),
        "5": ("probe", "runs/a", "--data", "y"),
    }
    for id, command in commands.items():
        record(run, id, *command, seconds=int(id))
    slurm(*(f"{id}|FAILED|00:00:09|2:0" for id in commands))
    assert [job.record.id for job in jobs(tmp_path / "runs")] == ["2", "3", "5"]
    assert len(jobs(tmp_path / "runs", everything=True)) == 5


def test_a_job_canceled_by_its_dependency_names_it(tmp_path, slurm):
    run = tmp_path / "a"
    chain = [
        record(run, "2", "probe", after=("1",)),  # 1 lies in another folder
        record(run, "3", "export", after=("2",)),
        record(run, "10_0", "pretrain"),
        record(run, "10_1", "pretrain"),
        record(run, "11_0", "probe", after=("10",)),
        record(run, "11_1", "probe", after=("10",)),
        record(run, "12", "probe", after=("10",)),
        record(run, "13", "probe", after=("10",)),
    ]
    gone = [f"{id}|CANCELLED|00:00:00|0:0" for id in ("2", "3", "11_1", "12")]
    ended = ["1|FAILED|00:01:00|2:0", "10_0|COMPLETED|00:01:00|0:0", "10_1|TIMEOUT|00:01:00|0:0", "11_0|CANCELLED|00:00:03|0:0"]
    slurm(*gone, *ended, "13|CANCELLED by 0|00:00:00|0:0")
    states = load_states(chain)
    assert set(states) == {one.id for one in chain}
    assert [str(states[id]) for id in ("2", "3")] == ["CANCELLED (job 1 failed)", "CANCELLED (job 2 was canceled)"]
    assert [str(states[id]) for id in ("11_1", "12")] == ["CANCELLED (job 10_1 failed)"] * 2
    assert [str(states[id]) for id in ("11_0", "13")] == ["CANCELLED", "CANCELLED (by root)"], "it ran; a user canceled it"


TRACEBACK = """Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
KeyError: 'a'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    g()
    ^^^
RuntimeError: out of memory
"""
NOISE = "srun: error: node1: task 0: Exited with exit code 2\nslurmstepd: error: *** JOB 5 ***\nsubmitit ERROR (x) - failed\n"


@pytest.mark.parametrize(
    ("log", "shown"),
    [
        ("one\ntwo\n" + NOISE, ["one", "two"]),
        (NOISE, NOISE.splitlines()),
        ("why\n" + "skipped: a.jpg is empty\n" * 300, []),
        ("why\n" + "skipped: a.jpg is empty\n" * 9 + NOISE, ["why"]),
        ("step 3\n" + TRACEBACK + NOISE, ["step 3", "RuntimeError: out of memory"]),
        ("".join(f"[rank1]: {line}\n" for line in TRACEBACK.splitlines()), ["[rank1]: RuntimeError: out of memory"]),
    ],
)
def test_the_last_messages_say_why(tmp_path, log, shown):
    failed = record(tmp_path / "a", "5", "probe")
    failed.log_of(0).write_text(log)
    assert last_messages(failed) == shown


def test_a_failed_job_without_a_log_says_so(tmp_path, slurm):
    failed = record(tmp_path / "a", "5", "probe")
    slurm("5|FAILED|00:00:01|1:0")
    assert format_table([Job(failed, load_states([failed])["5"], Progress())])[-1] == f"    | {NO_LOG}"


def test_logs_move_with_their_runs(tmp_path):
    runs, sweep = tmp_path / "runs", tmp_path / "runs/sweep/jobs/pretrain-6_0.log"
    record(runs / "a", "5", "probe").log_of(0).write_text("of one")
    record(runs / "b", "6_0", "pretrain", log=str(sweep), seconds=1)
    sweep.parent.mkdir(parents=True)
    sweep.write_text("of an array")
    runs.rename(tmp_path / "kept")
    assert [one.log_of(0).read_text() for one in read_records(tmp_path / "kept")] == ["of one", "of an array"]
    (tmp_path / "kept/a").rename(tmp_path / "kept/c")
    (one,) = read_records(tmp_path / "kept/c")
    assert one.log_of(0) == tmp_path / "kept/c/jobs/probe-5.log"


def test_the_log_of_a_run_is_of_what_runs_else_of_its_training(tmp_path, slurm, capsys):
    run = tmp_path / "runs/a"
    for number, verb in enumerate(("pretrain", "probe", "export")):
        record(run, str(number), verb, "a", seconds=number).log_of(0).write_text(f"I am {verb}\n")
    record(run, "3", "probe", "b", seconds=3)
    for state, shown in (("RUNNING", "probe"), ("COMPLETED", "pretrain")):
        slurm("0|COMPLETED|1:00|0:0", f"1|{state}|1:00|0:0", "2|FAILED|1:00|0:0", "3|PENDING|0:00|0:0")
        logs("a", tmp_path / "runs")
        said = capsys.readouterr()
        assert said.out == f"I am {shown}\n" and f"({shown}-a), {state}" in said.err and said.err.count("\n") == 1


def test_a_log_that_is_not_there_yet_is_no_empty_line(tmp_path, slurm, capsys, monkeypatch):
    record(tmp_path / "a", "5", "probe")
    slurm("5|PENDING|0:00|0:0")
    monkeypatch.setattr("jepa_pipeline.commands.jobs.follow_log", lambda *_: None)
    logs("5", tmp_path, follow=True)
    assert capsys.readouterr().out == ""
