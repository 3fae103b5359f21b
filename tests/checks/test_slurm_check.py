"""What a site file asks for is held against what the cluster says of itself."""

import pytest

from jepa_pipeline.checks.slurm import check_slurm, gpus_in, whole
from jepa_pipeline.config.site import SiteConfig

SITE = {"nodes": 2, "gpus_per_node": 8, "cpus_per_task": 8, "time": "24:00:00"}


def found(config=None, site=None, save_s=None):
    return {finding.name: finding for finding in check_slurm(config, site and SiteConfig(**site), save_s)}


def test_a_cluster_that_fits_is_fine(cluster, tiny):
    findings = found(tiny("data.workers=7"), SITE, save_s=10.0)
    assert {one.level for one in findings.values()} == {"ok"}, findings
    assert list(findings) == [
        *(
            "slurm",
            "partition",
            "account",
            "nodes",
            "processes",
            "cpus",
            "time to leave",
            "kill wait",
            "preemption",
            "requeue",
            "job",
        )
    ]
    asked = (cluster.folder / "sbatch.asked").read_text()
    assert "--test-only" in asked and "--nodes=2 --ntasks-per-node=8 --cpus-per-task=8" in asked and "--gpus-per-node=8" in asked
    assert "2026-01-02T03:04:05" in findings["job"].text


def test_without_a_site_the_cluster_alone_is_judged(cluster):
    assert list(found()) == ["slurm", "partition", "kill wait", "preemption", "requeue"]


def test_no_slurm_is_no_failure(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert [finding.level for finding in check_slurm(None, None, None)] == ["skipped"]


def test_a_controller_that_is_down_is_named(cluster):
    cluster.say("scontrol", "#!/bin/sh\nexit 1\n")
    for site, level in ((SiteConfig(**SITE), "fail"), (None, "warn")):  # without a site nobody has said that the run is to go there
        (finding,) = check_slurm(None, site, None)
        assert finding.level == level and "scontrol ping" in finding.cure


@pytest.mark.parametrize(
    ("name", "changes", "text", "cure"),
    [
        ("partition", {"partition": "gpus"}, "there is no partition gpus", "gpu, spare, broken"),
        ("partition", {"partition": "broken"}, "DOWN", "another"),
        ("partition", {"time": "3-00:00:00"}, "time is 3-00:00:00", "2-00:00:00"),
        ("partition", {"partition": "spare", "account": "lab", "nodes": 5}, "up to 4 nodes", "nodes: 4"),
        ("account", {"account": "lap"}, "no account lap, but lab, other", "set account"),
        ("account", {"account": "other", "qos": "long"}, "no qos long, but normal", "set qos"),
        ("account", {"partition": "spare", "account": "third"}, "takes no account third", "set account"),
        ("nodes", {"nodes": 9}, "8 with 64 CPUs, 500 GiB, 8 GPUs", "lower nodes"),
        ("nodes", {"memory_gb": 600}, "600 GiB", "memory_gb"),
        ("nodes", {"cpus_per_task": 9}, "72 CPUs", "cpus_per_task"),
        ("processes", {"tasks_per_node": 1}, "one process for each GPU", "set it to 8"),
    ],
)
def test_what_the_cluster_has_not_got_is_a_failure(cluster, name, changes, text, cure):
    finding = found(site=SITE | changes)[name]
    assert finding.level == "fail" and text in finding.text and cure in finding.cure, finding


def test_the_recipe_and_the_site_ask_for_the_same_processes(cluster, tiny):
    finding = found(tiny("trainer.devices=4"), SITE)["processes"]
    assert finding.level == "fail" and "trainer.devices is 4" in finding.text


def test_too_few_cpus_for_the_workers_are_a_warning(cluster, tiny):
    finding = found(tiny("data.workers=12"), SITE)["cpus"]
    assert finding.level == "warn" and "keep 13 busy" in finding.text and "data.workers=7" in finding.cure


@pytest.mark.parametrize(("signal_s", "level"), [(30, "fail"), (60, "fail"), (100, "warn"), (121, "ok")])
def test_a_job_is_told_in_time_to_write_a_checkpoint(cluster, signal_s, level):
    finding = found(site=SITE | {"signal_s": signal_s}, save_s=60.0)["time to leave"]
    assert finding.level == level and "60.0 s" in finding.text
    assert (finding.cure == "") == (level == "ok") and (level == "ok" or "signal_s: 120" in finding.cure)


def test_a_kill_wait_shorter_than_a_checkpoint_is_a_warning(cluster):
    finding = found(save_s=60.0)["kill wait"]
    assert finding.level == "warn" and "30 s (KillWait)" in finding.text and "--signal=USR1" in finding.cure


def test_preemption_is_told_with_its_time_and_its_end(cluster):
    spare = SITE | {"partition": "spare", "account": "lab"}
    finding = found(site=spare, save_s=10.0)["preemption"]
    assert finding.level == "ok" and "120 s (GraceTime)" in finding.text and "REQUEUE" in finding.text
    assert found(site=spare, save_s=90.0)["preemption"].level == "warn"
    cluster.change("scontrol.partition", "GraceTime=120", "GraceTime=0")
    assert found(site=spare)["preemption"].level == "warn"
    cluster.change("scontrol.config", "preempt/partition_prio", "preempt/none")
    assert "not preempted" in found(site=spare)["preemption"].text


def test_jobs_that_are_not_requeued_are_a_warning(cluster):
    cluster.change("scontrol.config", "JobRequeue              = 1", "JobRequeue              = 0")
    assert found()["requeue"].level == "warn"


def test_what_slurm_itself_refuses_is_told_in_its_words(cluster):
    cluster.say("sbatch.answer", "sbatch: error: QOSMaxGRESPerUser\nallocation failure: no\n")
    cluster.say("sbatch.code", "1")
    finding = found(site=SITE)["job"]
    assert finding.level == "fail" and "QOSMaxGRESPerUser; allocation failure: no" in finding.text


def test_numbers_of_sinfo_are_read():
    assert [whole("64+"), whole("30 sec"), whole("(null)")] == [64, 30, 0]
    assert [gpus_in(text) for text in ("gpu:8", "gpu:a100:8(S:0-1)", "gpu:a100:4,gpu:h100:4", "(null)", "shard:gpu")] == [
        8,
        8,
        8,
        0,
        0,
    ]
