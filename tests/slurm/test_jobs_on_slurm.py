"""Jobs on a real cluster. All are queued at once, and looked at when they have ended."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from jepa_pipeline.cluster.sbatch import JobSpec
from jepa_pipeline.cluster.sbatch import submit as queue
from jepa_pipeline.config.site import load_site

ROOT = Path(__file__).parents[2]
RECIPE, SITE = ROOT / "configs/debug/ijepa.yaml", ROOT / "slurm/dev-cluster/site.yaml"

LONG_COMMAND = ["selftest", "resume", "--steps"]
"""A command that is no pretraining run, so that it starts anew after a preemption."""


def ids(said):
    return re.findall(r"^job (\S+):", said, re.M)


def log(jepa, id):
    found = [*jepa.folder.glob(f"**/jobs/*{id}*.log")]
    return "".join(path.read_text() for path in sorted(found))


class Jobs(NamedTuple):
    """The ids of what was queued."""

    chain: list[str]
    sweep: list[str]
    failing: str
    orphan: str
    canceled: str
    requeued: str
    pair: str


@pytest.fixture(scope="module")
def queued(project, until, monkeypatch_module):
    """A run with an export, four runs with a table, one that fails, one that waits for it, one canceled, one preempted, one of two
    processes."""
    sweep = ["--sweep", "optim.lr=1e-3", "--sweep", "seed=0,1", "--sweep", "optim.weight_decay=0.01,0.02", "--at-most", "2"]
    (failing,) = ids(project("submit", "shards", "check", "nowhere"))
    (orphan,) = ids(project("submit", "config", "show", "--after", failing))
    monkeypatch_module.chdir(project.folder)
    works = [JobSpec("pair", ["config", "check", str(RECIPE)], project.folder / "runs/pair/jobs", distributed=True)]
    (pair,) = queue(works, load_site(SITE, ["nodes=2", "tasks_per_node=1"]))
    chain = ids(project("submit", "pretrain", RECIPE, "--then", "probe protocols=[knn]", "--then", "export"))
    swept = ids(project("submit", "pretrain", RECIPE, "name=many", *sweep))
    (canceled,) = ids(project("submit", *LONG_COMMAND, 4000))
    (requeued,) = ids(project("submit", *LONG_COMMAND, 12))
    for id, act in ((requeued, preempt), (canceled, lambda id: project("cancel", id))):
        until(lambda id=id: "Loading pickle" in log(project, id), shown=lambda: project("jobs", "--all"))
        time.sleep(1)  # until submitit listens
        act(id)
    found = Jobs(chain, swept, failing, orphan, canceled, requeued, pair)
    live = ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "REQUEUED", "UNKNOWN")
    until(lambda: not {row["state"] for row in rows(project).values()} & set(live), shown=lambda: project("jobs", "--all"))
    return found


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        yield patch


def preempt(id):
    """What Slurm sends to a job that is to make room, if the job asked for a signal of its own."""
    subprocess.run(["scancel", "--signal=USR2", id], check=True)


def rows(jepa):
    return {row["job"]: row for row in json.loads(jepa("jobs", "--json", "--all"))["jobs"]}


def test_a_chain_runs_in_its_order(project, queued):
    found = rows(project)
    assert [found[id]["state"] for id in queued.chain] == ["COMPLETED"] * 3, log(project, queued.chain[1])
    run = project.folder / "runs/debug_ijepa"
    assert found[queued.chain[0]]["step"] == found[queued.chain[0]]["total_steps"] == 20 and list((run / "export").iterdir())
    assert list((run / "probes").glob("*.json"))
    assert [found[id]["after"] for id in queued.chain[1:]] == [[id] for id in queued.chain[:2]]
    assert (run / f"jobs/pretrain-{queued.chain[0]}.log").is_file()


def test_a_log_has_no_progress_bar(project, queued):
    text = log(project, queued.chain[0])
    assert "step 20/20" in text and "\x1b" not in text


def test_a_sweep_is_an_array_with_a_table_at_its_end(project, queued):
    found = rows(project)
    assert len(queued.sweep) == 5 and {found[id]["state"] for id in queued.sweep[:4]} == {"COMPLETED"}
    assert len({id.partition("_")[0] for id in queued.sweep[:4]}) == 1
    assert {found[id]["step"] for id in queued.sweep[:4]} == {20}
    assert {path.name for path in (project.folder / "runs").glob("many-seed*")} == {
        f"many-seed{seed}-weight_decay{decay}" for seed in (0, 1) for decay in ("0.01", "0.02")
    }
    assert found[queued.sweep[4]]["state"] == "COMPLETED", log(project, queued.sweep[4])
    assert [*(project.folder / "runs").glob("many-sweep-seed-weight_decay.*")]


def test_a_users_mistake_fails_the_job_with_its_sentence(project, queued):
    row = rows(project)[queued.failing]
    assert (row["state"], row["exit"]) == ("FAILED", "2") and any("nowhere" in line for line in row["last_lines"])
    assert "Traceback" not in log(project, queued.failing)
    assert "| " in project("jobs", "runs") and "nowhere" in project("logs", queued.failing)


def test_what_waits_for_a_failed_job_is_taken_away(project, queued):
    assert rows(project)[queued.orphan]["state"] == "CANCELLED"


def test_a_canceled_job_is_gone(project, queued):
    row = rows(project)[queued.canceled]
    assert row["state"] == "CANCELLED" and row["why"] == "by root" and "not running" in project("cancel", queued.canceled)


def test_a_preempted_command_begins_anew(project, queued):
    row = rows(project)[queued.requeued]
    assert (row["state"], row["restarts"]) == ("COMPLETED", 1), log(project, queued.requeued)
    assert log(project, queued.requeued).count("Loading pickle") == 2, "the log of the first start is kept"


def test_a_job_of_two_processes_has_two_logs(project, queued):
    folder = project.folder / "runs/pair/jobs"
    assert rows(project)[queued.pair]["state"] == "COMPLETED"
    assert all("is valid" in (folder / f"config-{queued.pair}-rank{rank}.log").read_text() for rank in (0, 1))
    assert "is valid" in project("logs", queued.pair, "--rank", "1")


def test_what_slurm_refuses_is_one_sentence(project):
    assert "Slurm refused the job: " in project("submit", "config", "show", "--set", "partition=nowhere", code=2)
    assert not (project.folder / "runs/nowhere").exists()
