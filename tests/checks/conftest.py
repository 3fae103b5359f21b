"""A fake cluster: programs with Slurm's names on PATH, which print the contents of files."""

import pytest

CONFIG = """
Configuration data as of 2026-01-01T00:00:00
AccountingStorageEnforce = associations
JobRequeue              = 1
KillWait                = 30 sec
PreemptMode             = REQUEUE
PreemptType             = preempt/partition_prio
SlurmctldParameters     = preempt_send_user_signal
SLURM_VERSION           = 23.11.4
"""
PARTITIONS = """
PartitionName=gpu AllowAccounts=ALL AllowQos=ALL Default=YES GraceTime=0 MaxNodes=UNLIMITED MaxTime=2-00:00:00 PreemptMode=OFF State=UP
PartitionName=spare AllowAccounts=lab,other AllowQos=ALL Default=NO GraceTime=120 MaxNodes=4 MaxTime=UNLIMITED PreemptMode=REQUEUE State=UP
PartitionName=broken AllowAccounts=ALL AllowQos=ALL Default=NO GraceTime=0 MaxTime=UNLIMITED PreemptMode=OFF State=DOWN
"""
NODES = "8|64+|512000+|gpu:a100:8(S:0-1)\n2|32|128000|(null)\n"
ASSOCIATIONS = "lab|normal,long\nother|normal\n"
SCRIPTS = {
    "scontrol": 'cat "$0.$2"',
    "sinfo": 'cat "$0.nodes"',
    "sacctmgr": 'cat "$0.assoc"',
    "sbatch": 'echo "$@" > "$0.asked"; cat "$0.answer" >&2; exit $(cat "$0.code")',
}


class Cluster:
    def __init__(self, folder):
        self.folder = folder
        for name, body in SCRIPTS.items():
            (folder / name).write_text(f"#!/bin/sh\n{body}\n")
            (folder / name).chmod(0o755)
        self.say("scontrol.config", CONFIG)
        self.say("scontrol.partition", PARTITIONS)
        self.say("sinfo.nodes", NODES)
        self.say("sacctmgr.assoc", ASSOCIATIONS)
        self.say(
            "sbatch.answer", "sbatch: Job 7 to start at 2026-01-02T03:04:05 using 16 processors on nodes n1 in partition gpu\n"
        )
        self.say("sbatch.code", "0")

    def say(self, file, text):
        (self.folder / file).write_text(text)

    def change(self, file, old, new):
        text = (self.folder / file).read_text()
        assert old in text
        self.say(file, text.replace(old, new))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    monkeypatch.delenv("SLURM_JOB_PARTITION", raising=False)
    return Cluster(folder)
