"""What a site file requests is compared with what the cluster offers."""

import pytest

from jepa_pipeline.checks.slurm import check_slurm, count_gpus, parse_number
from jepa_pipeline.config.site import SiteConfig

SITE = {"nodes": 2, "gpus_per_node": 8, "cpus_per_task": 8, "time": "24:00:00"}


def run(config=None, site=None, save_s=None):
    return {result.name: result for result in check_slurm(config, site and SiteConfig(**site), save_s)}


def test_a_cluster_that_fits_is_fine(cluster, tiny):
    results = run(tiny("data.workers=7"), SITE, save_s=10.0)
    assert {one.level for one in results.values()} == {"ok"}, results
    assert list(results) == [
        *(
            "slurm",
            "partition",
            "account",
            "nodes",
            "processes",
            "cpus",
            "stop signal",
            "kill wait",
            "preemption",
            "requeue",
            "job",
        )
    ]
    asked = (cluster.folder / "sbatch.asked").read_text()
    assert "--test-only" in asked and "--nodes=2 --ntasks-per-node=8 --cpus-per-task=8" in asked and "--gpus-per-node=8" in asked
    assert "2026-01-02T03:04:05" in results["job"].text


def test_without_a_site_the_cluster_alone_is_judged(cluster):
    assert list(run()) == ["slurm", "partition", "kill wait", "preemption", "requeue"]


def test_no_slurm_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [result.level for result in check_slurm(None, None, None)] == ["skipped"]


def test_a_controller_that_is_down_is_named(cluster):
    cluster.say("scontrol", "#!/bin/sh\nexit 1\n")
    for site, level in ((SiteConfig(**SITE), "fail"), (None, "warn")):  # without a site, the run may not be meant for Slurm
        (result,) = check_slurm(None, site, None)
        assert result.level == level and "scontrol ping" in result.cure


@pytest.mark.parametrize(
    ("name", "changes", "text", "cure"),
    [
        ("partition", {"partition": "gpus"}, "there is no partition gpus", "gpu, spare, broken"),
        ("partition", {"partition": "broken"}, "DOWN", "another"),
        ("partition", {"time": "3-00:00:00"}, "time is 3-00:00:00", "2-00:00:00"),
        ("partition", {"partition": "spare", "account": "lab", "nodes": 5}, "up to 4 nodes", "nodes: 4"),
        ("account", {"account": "lap"}, "no account lap, but lab, other", "set account"),
        ("account", {"account": "other", "qos": "long"}, "no qos long, but normal", "set qos"),
        ("account", {"partition": "spare", "account": "third"}, "does not allow account third", "set account"),
        ("nodes", {"nodes": 9}, "8 with 64 CPUs, 500 GiB, 8 GPUs", "lower nodes"),
        ("nodes", {"memory_gb": 600}, "600 GiB", "memory_gb"),
        ("nodes", {"cpus_per_task": 9}, "72 CPUs", "cpus_per_task"),
        ("processes", {"tasks_per_node": 1}, "one process per GPU", "set it to 8"),
    ],
)
def test_what_the_cluster_has_not_got_is_a_failure(cluster, name, changes, text, cure):
    result = run(site=SITE | changes)[name]
    assert result.level == "fail" and text in result.text and cure in result.cure, result


def test_the_recipe_and_the_site_ask_for_the_same_processes(cluster, tiny):
    result = run(tiny("trainer.devices=4"), SITE)["processes"]
    assert result.level == "fail" and "trainer.devices is 4" in result.text


def test_too_few_cpus_for_the_workers_are_a_warning(cluster, tiny):
    result = run(tiny("data.workers=12"), SITE)["cpus"]
    assert result.level == "warn" and "use 13" in result.text and "data.workers=7" in result.cure


@pytest.mark.parametrize(("signal_s", "level"), [(30, "fail"), (60, "fail"), (100, "warn"), (121, "ok")])
def test_a_job_is_told_in_time_to_write_a_checkpoint(cluster, signal_s, level):
    result = run(site=SITE | {"signal_s": signal_s}, save_s=60.0)["stop signal"]
    assert result.level == level and "60.0 s" in result.text
    assert (result.cure == "") == (level == "ok") and (level == "ok" or "signal_s: 120" in result.cure)


def test_a_kill_wait_shorter_than_a_checkpoint_is_a_warning(cluster):
    result = run(save_s=60.0)["kill wait"]
    assert result.level == "warn" and "30 s (KillWait)" in result.text and "--signal=USR1" in result.cure


def test_preemption_is_told_with_its_time_and_its_end(cluster):
    spare = SITE | {"partition": "spare", "account": "lab"}
    result = run(site=spare, save_s=10.0)["preemption"]
    assert result.level == "ok" and "120 s (GraceTime)" in result.text and "REQUEUE" in result.text
    assert run(site=spare, save_s=90.0)["preemption"].level == "warn"
    cluster.change("scontrol.partition", "GraceTime=120", "GraceTime=0")
    assert run(site=spare)["preemption"].level == "warn"
    cluster.change("scontrol.config", "preempt/partition_prio", "preempt/none")
    assert "not preempted" in run(site=spare)["preemption"].text


def test_jobs_that_are_not_requeued_are_a_warning(cluster):
    cluster.change("scontrol.config", "JobRequeue              = 1", "JobRequeue              = 0")
    assert run()["requeue"].level == "warn"


def test_what_slurm_itself_refuses_is_told_in_its_words(cluster):
    cluster.say("sbatch.answer", "sbatch: error: QOSMaxGRESPerUser\nallocation failure: no\n")
    cluster.say("sbatch.code", "1")
    result = run(site=SITE)["job"]
    assert result.level == "fail" and "QOSMaxGRESPerUser; allocation failure: no" in result.text


def test_numbers_of_sinfo_are_read():
    assert [parse_number("64+"), parse_number("30 sec"), parse_number("(null)")] == [64, 30, 0]
    assert [count_gpus(text) for text in ("gpu:8", "gpu:a100:8(S:0-1)", "gpu:a100:4,gpu:h100:4", "(null)", "shard:gpu")] == [
        8,
        8,
        8,
        0,
        0,
    ]
