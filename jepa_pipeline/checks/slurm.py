"""Checks that a Slurm cluster accepts a run, and leaves it time to write a checkpoint before it is stopped."""

import getpass
import os
import re
import shutil
import subprocess

from jepa_pipeline.checks.result import CheckResult
from jepa_pipeline.cluster.states import run_slurm
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import SiteConfig, minutes_of
from jepa_pipeline.config.trainer import TrainerConfig

Settings = dict[str, str]
"""Slurm's own description of itself or of a partition, by its names."""

SAFETY = 2.0
"""Times that a checkpoint should fit into the available time, because a busy file system is slower than a quiet one."""
UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "(null)", "N/A", "")


def check_slurm(config: RunConfig | None, site: SiteConfig | None, save_s: float | None) -> list[CheckResult]:
    """Compare what a job requests with what Slurm offers.

    Args:
        config: the run; None: no run.
        site: the resources a job requests; None: no job is planned.
        save_s: seconds that writing a checkpoint takes; None: unknown.
    """
    if shutil.which("scontrol") is None:
        return [CheckResult("slurm", "skipped", "no scontrol here: this machine is not part of a Slurm cluster")]
    settings_text, partitions_text = (
        run_slurm("scontrol", "show", "config"),
        run_slurm("scontrol", "show", "partition", "--oneliner"),
    )
    if settings_text is None or partitions_text is None:
        cure = "check the controller with `scontrol ping`"
        level = "fail" if site else "warn"  # without a site, the run may not be meant for Slurm
        return [CheckResult("slurm", level, "scontrol is installed, but Slurm's controller does not answer", cure)]
    slurm, partitions = parse_settings(settings_text), parse_partitions(partitions_text)
    results = [CheckResult("slurm", "ok", f"Slurm {slurm.get('SLURM_VERSION', '')}, partitions {', '.join(partitions)}")]
    name, partition = choose_partition(partitions, site)
    if partition is None:
        text = f"there is no partition {name}" if name else "there is no default partition"
        cure = f"set partition in the site file to one of {', '.join(partitions)}"
        return [*results, CheckResult("partition", "fail", text, cure)]
    results.append(check_partition(name, partition, site))
    if site is not None:
        results += [check_account(slurm, partition, site), check_nodes(name, site)]
        results.append(check_processes(config.trainer if config else None, site))
        if config is not None:
            results.append(check_cpus(config.data.workers, site))
        results.append(check_signal(site, save_s))
    results += [check_kill_wait(slurm, save_s), check_preemption(name, slurm, partition, site, save_s), check_requeue(slurm)]
    return [*results, check_job(site)] if site is not None else results


def parse_settings(text: str) -> Settings:
    """Parse the output of `scontrol show config`."""
    return {name: value.strip() for name, value in re.findall(r"^(\w+)\s*= ?(.*)$", text, re.MULTILINE)}


def parse_partitions(text: str) -> dict[str, Settings]:
    """Parse the output of `scontrol show partition --oneliner`, by partition."""
    rows = (dict(re.findall(r"([\w/]+)=(\S*)", line)) for line in text.splitlines() if line.strip())
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def choose_partition(partitions: dict[str, Settings], site: SiteConfig | None) -> tuple[str, Settings | None]:
    """Return the partition of a job, or of this process: the first of several named ones, else the default."""
    wanted = site.partition if site is not None else os.environ.get("SLURM_JOB_PARTITION")
    if wanted is not None:
        names = wanted.split(",")
        missing = [name for name in names if name not in partitions]
        return (missing[0], None) if missing else (names[0], partitions[names[0]])
    default = ((name, partition) for name, partition in partitions.items() if partition.get("Default") == "YES")
    return next(default, ("", None))


def check_partition(name: str, partition: Settings, site: SiteConfig | None) -> CheckResult:
    """Check that the partition is up and allows the job's time and nodes."""
    longest, state = partition.get("MaxTime", ""), partition.get("State", "")
    text = f"{name} is {state}, with jobs of {'any time' if longest in UNLIMITED else f'up to {longest}'}"
    if state != "UP":
        return CheckResult("partition", "fail", text, "choose another one in the site file, or wait until it is up")
    if site is None:
        return CheckResult("partition", "ok", text)
    if longest not in UNLIMITED and site.minutes > minutes_of(longest):
        return CheckResult("partition", "fail", f"{text}, but time is {site.time}", f"set time: {longest} in the site file")
    nodes = partition.get("MaxNodes", "")
    if nodes.isdecimal() and site.nodes > int(nodes):
        return CheckResult("partition", "fail", f"{text} on up to {nodes} nodes, but nodes is {site.nodes}", f"set nodes: {nodes}")
    return CheckResult("partition", "ok", f"{text}; time is {site.time}")


def check_account(slurm: Settings, partition: Settings, site: SiteConfig) -> CheckResult:
    """Check that this user may use the account and the quality of service."""
    for word, setting, wanted in (("account", "AllowAccounts", site.account), ("qos", "AllowQos", site.qos)):
        allowed = partition.get(setting, "ALL")
        if wanted is not None and allowed != "ALL" and wanted not in allowed.split(","):
            text = f"the partition does not allow {word} {wanted}, only {allowed}"
            return CheckResult("account", "fail", text, f"set {word} to one of them")
    user = getpass.getuser()
    rows = run_slurm("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=account,qos")
    if not rows:
        return CheckResult("account", "skipped", f"Slurm's accounting does not list user {user}")
    pairs = [line.split("|") for line in rows.splitlines()]
    accounts = sorted({account for account, _ in pairs})
    qualities = sorted({name for account, names in pairs if site.account in (None, account) for name in names.split(",")})
    enforced = slurm.get("AccountingStorageEnforce", "none").lower() not in ("none", "")
    for word, wanted, available in (("account", site.account, accounts), ("qos", site.qos, qualities)):
        if wanted is not None and wanted not in available:
            text = f"user {user} has no {word} {wanted}, but {', '.join(available)}"
            return CheckResult("account", "fail" if enforced else "warn", text, f"set {word} in the site file to one of them")
    return CheckResult("account", "ok", f"user {user}: accounts {', '.join(accounts)}; qos {', '.join(qualities)}")


def check_nodes(partition: str, site: SiteConfig) -> CheckResult:
    """Check that the partition has enough nodes that are as large as the job's."""
    rows = run_slurm("sinfo", "--noheader", f"--partition={partition}", "--format=%D|%c|%m|%G")
    if not rows:
        return CheckResult("nodes", "skipped", f"sinfo does not list {partition}")
    kinds = [line.strip().split("|") for line in rows.splitlines()]
    nodes = [
        (int(count), parse_number(cores), parse_number(memory) / 1024, count_gpus(gres)) for count, cores, memory, gres in kinds
    ]
    available = "; ".join(f"{count} with {cores} CPUs, {memory:.0f} GiB, {gpus} GPUs" for count, cores, memory, gpus in nodes)
    cores, memory = site.tasks * site.cpus_per_task, site.memory_gb or 0
    requested = f"{site.nodes} with {cores} CPUs, {f'{memory:g} GiB, ' if memory else ''}{site.gpus_per_node} GPUs"
    fitting = sum(n for n, c, m, g in nodes if c >= cores and m >= memory and g >= site.gpus_per_node)
    if fitting >= site.nodes:
        return CheckResult("nodes", "ok", f"{partition} has {available}; a job requests {requested}")
    cure = "lower nodes, cpus_per_task, memory_gb or gpus_per_node in the site file, or choose another partition"
    return CheckResult("nodes", "fail", f"{partition} has {available}, but a job requests {requested}", cure)


def parse_number(text: str) -> int:
    """Parse a number that may have a suffix, such as 64+ or 30 sec; 0 if there is none."""
    return int(re.sub(r"\D.*", "", text) or 0)


def count_gpus(gres: str) -> int:
    """Count the GPUs in generic resources such as gpu:a100:8(S:0-1)."""
    return sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))


def check_processes(trainer: TrainerConfig | None, site: SiteConfig) -> CheckResult:
    """Check that a node has one process per GPU, and that recipe and site agree."""
    text = f"{site.nodes} x {site.tasks} processes, {site.gpus_per_node} GPUs per node"
    if site.gpus_per_node and site.tasks != site.gpus_per_node:
        cure = f"remove tasks_per_node from the site file, or set it to {site.gpus_per_node}"
        return CheckResult("processes", "fail", f"{text}, but a run needs one process per GPU", cure)
    wanted = [] if trainer is None else [("devices", trainer.devices, site.tasks), ("nodes", trainer.nodes, site.nodes)]
    differing = [f"trainer.{key} is {value}" for key, value, given in wanted if value not in (None, given)]
    if differing:
        cure = "make them agree, or remove trainer.devices and trainer.nodes from the recipe"
        return CheckResult("processes", "fail", f"{text}, but {' and '.join(differing)}", cure)
    return CheckResult("processes", "ok", text)


def check_cpus(workers: int, site: SiteConfig) -> CheckResult:
    """Check that each process has a CPU for each data worker and for itself."""
    busy = 1 + workers
    text = f"{site.cpus_per_task} CPUs per process; data.workers {workers} and training use {busy}"
    if site.cpus_per_task >= busy:
        return CheckResult("cpus", "ok", text)
    cure = f"set cpus_per_task: {busy} in the site file, or data.workers={site.cpus_per_task - 1}"
    return CheckResult("cpus", "warn", text, cure)


def check_signal(site: SiteConfig, save_s: float | None) -> CheckResult:
    """Compare the time between the stop signal and the time limit with that of writing a checkpoint."""
    text = f"a job is signaled {site.signal_s} s before its time limit (signal_s)"
    if save_s is None:
        return CheckResult("stop signal", "ok", text)
    needed = round(SAFETY * save_s + 0.5)
    text += f"; a checkpoint takes about {save_s:.1f} s"
    if site.signal_s >= needed:
        return CheckResult("stop signal", "ok", text)
    level = "fail" if site.signal_s <= save_s else "warn"
    return CheckResult("stop signal", level, text, f"set signal_s: {max(needed, 60)} in the site file")


def check_kill_wait(slurm: Settings, save_s: float | None) -> CheckResult:
    """Compare the time between scancel and the kill with that of writing a checkpoint."""
    wait = parse_number(slurm.get("KillWait", ""))
    text = f"a job is killed {wait} s (KillWait) after `scancel` or `scontrol requeue`"
    if save_s is None or save_s < wait:
        return CheckResult("kill wait", "ok", text)
    text += f"; a checkpoint takes about {save_s:.1f} s, so steps since the last one are lost"
    return CheckResult("kill wait", "warn", text, "stop runs with `scancel --signal=USR1 JOB`, which has no time limit")


def check_preemption(name: str, slurm: Settings, partition: Settings, site: SiteConfig | None, save_s: float | None) -> CheckResult:
    """Check that a preempted job has time to write a checkpoint."""
    off = slurm.get("PreemptType", "preempt/none").endswith("none") or slurm.get("PreemptMode", "OFF") == "OFF"
    mode = "OFF" if off else partition.get("PreemptMode", slurm.get("PreemptMode", "OFF"))
    if mode.split(",")[0] == "OFF":
        return CheckResult("preemption", "ok", f"jobs in {name} are not preempted")
    grace = parse_number(partition.get("GraceTime", "0"))
    own_signal = site is not None and "preempt_send_user_signal" in slurm.get("SlurmctldParameters", "")
    signal = "the job's own signal" if own_signal else "SIGTERM"
    text = f"a preempted job in {name} gets {signal}, then {mode} after {grace} s (GraceTime)"
    if grace == 0 or (save_s is not None and grace < SAFETY * save_s):
        seconds = f" (about {save_s:.1f} s)" if save_s is not None else ""
        cure = "use another partition, or lower checkpoint.every_minutes so that little is lost"
        return CheckResult("preemption", "warn", f"{text}; that may be too short for a checkpoint{seconds}", cure)
    return CheckResult("preemption", "ok", f"{text}; a run saves a checkpoint and requeues itself")


def check_requeue(slurm: Settings) -> CheckResult:
    """Check that jobs are requeued by default."""
    if slurm.get("JobRequeue") == "1":
        return CheckResult("requeue", "ok", "jobs may be requeued (JobRequeue=1)")
    text = "jobs are not requeued by default (JobRequeue=0)"
    return CheckResult("requeue", "warn", text, "submit with `jepa submit`, which requests it, or with sbatch --requeue")


def check_job(site: SiteConfig) -> CheckResult:
    """Let Slurm itself check the request, without submitting a job."""
    gpus = f"{site.gpu_type}:{site.gpus_per_node}" if site.gpu_type else f"{site.gpus_per_node}"
    values = {
        **{name: getattr(site, name) for name in ("partition", "account", "qos", "constraint", "exclude", "reservation")},
        **{"nodes": site.nodes, "ntasks-per-node": site.tasks, "cpus-per-task": site.cpus_per_task, "time": site.time},
        **{"gpus-per-node": gpus if site.gpus_per_node else None},
        **{"mem": f"{round(1024 * site.memory_gb)}M" if site.memory_gb else None},
        **{name: value for name, value in site.extra.items() if value is not False},
    }
    options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in values.items() if value is not None]
    command = ["sbatch", "--test-only", *options, "--wrap=true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return CheckResult("job", "skipped", f"sbatch --test-only does not answer ({error})")
    answer = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines())
    if done.returncode:
        return CheckResult(
            "job", "fail", f"Slurm refuses such a job: {answer}", "change the site file, or ask the cluster's support"
        )
    start = re.search(r"to start at (\S+)", answer)
    return CheckResult("job", "ok", f"Slurm accepts such a job; submitted now, it would start at {start[1]}" if start else answer)
