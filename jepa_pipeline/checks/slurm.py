"""Whether a Slurm cluster takes a run, and leaves it time to write a checkpoint when it is to go."""

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Iterator

from jepa_pipeline.checks.result import Finding
from jepa_pipeline.cluster.states import ask
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.site import SiteConfig, minutes_of

Facts = dict[str, str]
"""What Slurm says of itself or of a partition, by its own names."""

SAFETY = 2.0
"""How many times over a checkpoint is to fit into the time that is left: a busy file system is slower than a quiet one."""
UNLIMITED = ("UNLIMITED", "INFINITE", "NONE", "(null)", "N/A", "")


def check_slurm(config: RunConfig | None, site: SiteConfig | None, save_s: float | None) -> list[Finding]:
    """What Slurm is asked for against what it has and does. save_s: seconds that a checkpoint takes, if it is known."""
    if shutil.which("scontrol") is None:
        return [Finding("slurm", "skipped", "no scontrol here: this is no machine of a Slurm cluster")]
    told, listed = ask("scontrol", "show", "config"), ask("scontrol", "show", "partition", "--oneliner")
    if told is None or listed is None:
        cure = "see with `scontrol ping` whether it is up"
        level = "fail" if site else "warn"  # without a site nobody has said that the run is to go there
        return [Finding("slurm", level, "scontrol is here, but Slurm's controller does not answer", cure)]
    slurm, partitions = read_config(told), read_partitions(listed)
    findings = [Finding("slurm", "ok", f"Slurm {slurm.get('SLURM_VERSION', '')}, partitions {', '.join(partitions)}")]
    name, partition = choose(partitions, site)
    if partition is None:
        text = f"there is no partition {name}" if name else "no partition is the default"
        return [*findings, Finding("partition", "fail", text, f"set partition in the site file to one of {', '.join(partitions)}")]
    findings.append(check_partition(name, partition, site))
    if site is not None:
        findings += [check_account(slurm, partition, site), check_nodes(name, site), *check_shape(config, site)]
    findings += [*check_leaving(slurm, site, save_s), check_preemption(name, slurm, partition, site, save_s)]
    return [*findings, check_requeue(slurm)] + ([check_job(site)] if site is not None else [])


def read_config(text: str) -> Facts:
    """Of `scontrol show config`."""
    return {name: value.strip() for name, value in re.findall(r"^(\w+)\s*= ?(.*)$", text, re.MULTILINE)}


def read_partitions(text: str) -> dict[str, Facts]:
    """Of `scontrol show partition --oneliner`, by name."""
    rows = (dict(re.findall(r"([\w/]+)=(\S*)", line)) for line in text.splitlines() if line.strip())
    return {row["PartitionName"]: row for row in rows if "PartitionName" in row}


def choose(partitions: dict[str, Facts], site: SiteConfig | None) -> tuple[str, Facts | None]:
    """The partition that a job would go to, or in which this process runs; of several that are named, the first."""
    wanted = site.partition if site is not None else os.environ.get("SLURM_JOB_PARTITION")
    if wanted is not None:
        names = wanted.split(",")
        missing = [name for name in names if name not in partitions]
        return (missing[0], None) if missing else (names[0], partitions[names[0]])
    return next(((name, facts) for name, facts in partitions.items() if facts.get("Default") == "YES"), ("", None))


def check_partition(name: str, partition: Facts, site: SiteConfig | None) -> Finding:
    """Whether it is up, and takes a job for that long on so many nodes."""
    longest, state = partition.get("MaxTime", ""), partition.get("State", "")
    text = f"{name} is {state}, jobs of up to {'any time' if longest in UNLIMITED else longest}"
    if state != "UP":
        return Finding("partition", "fail", text, "choose another in the site file, or wait until it is up")
    if site is None:
        return Finding("partition", "ok", text)
    if longest not in UNLIMITED and site.minutes > minutes_of(longest):
        return Finding("partition", "fail", f"{text}, but time is {site.time}", f"set time: {longest} in the site file")
    nodes = partition.get("MaxNodes", "")
    if nodes.isdecimal() and site.nodes > int(nodes):
        return Finding("partition", "fail", f"{text}, on up to {nodes} nodes, but nodes is {site.nodes}", f"set nodes: {nodes}")
    return Finding("partition", "ok", f"{text}; time is {site.time}")


def check_account(slurm: Facts, partition: Facts, site: SiteConfig) -> Finding:
    """Whether this user may use the account and the quality of service."""
    for key, wanted in (("AllowAccounts", site.account), ("AllowQos", site.qos)):
        allowed = partition.get(key, "ALL")
        if wanted is not None and allowed != "ALL" and wanted not in allowed.split(","):
            word = "account" if key == "AllowAccounts" else "qos"
            return Finding(
                "account", "fail", f"the partition takes no {word} {wanted}, only {allowed}", f"set {word} to one of them"
            )
    user = getpass.getuser()
    rows = ask("sacctmgr", "--noheader", "--parsable2", "show", "assoc", f"user={user}", "format=account,qos")
    if not rows:
        return Finding("account", "skipped", f"Slurm's accounting says nothing of user {user}")
    pairs = [line.split("|") for line in rows.splitlines()]
    accounts = sorted({account for account, _ in pairs})
    qualities = sorted({name for account, names in pairs if site.account in (None, account) for name in names.split(",")})
    enforced = slurm.get("AccountingStorageEnforce", "none").lower() not in ("none", "")
    level = "fail" if enforced else "warn"
    if site.account is not None and site.account not in accounts:
        text = f"user {user} has no account {site.account}, but {', '.join(accounts)}"
        return Finding("account", level, text, "set account in the site file to one of them")
    if site.qos is not None and site.qos not in qualities:
        text = f"user {user} has no qos {site.qos}, but {', '.join(qualities)}"
        return Finding("account", level, text, "set qos in the site file to one of them")
    return Finding("account", "ok", f"user {user}: accounts {', '.join(accounts)}; qos {', '.join(qualities)}")


def check_nodes(partition: str, site: SiteConfig) -> Finding:
    """Whether any kind of node of the partition is as large as a node of the job."""
    rows = ask("sinfo", "--noheader", f"--partition={partition}", "--format=%D|%c|%m|%G")
    if not rows:
        return Finding("nodes", "skipped", f"sinfo says nothing of {partition}")
    kinds = [line.strip().split("|") for line in rows.splitlines()]
    nodes = [(int(count), whole(cores), whole(memory) / 1024, gpus_in(gres)) for count, cores, memory, gres in kinds]
    said = "; ".join(f"{count} with {cores} CPUs, {memory:.0f} GiB, {gpus} GPUs" for count, cores, memory, gpus in nodes)
    cores, memory = site.tasks * site.cpus_per_task, site.memory_gb or 0
    asked = f"{site.nodes} with {cores} CPUs, {f'{memory:g} GiB, ' if memory else ''}{site.gpus_per_node} GPUs"
    fitting = sum(n for n, c, m, g in nodes if c >= cores and m >= memory and g >= site.gpus_per_node)
    if fitting >= site.nodes:
        return Finding("nodes", "ok", f"{partition} has {said}; a job asks for {asked}")
    cure = "lower nodes, cpus_per_task, memory_gb or gpus_per_node in the site file, or choose another partition"
    return Finding("nodes", "fail", f"{partition} has {said}, but a job asks for {asked}", cure)


def whole(text: str) -> int:
    """Of a number that sinfo may write as 64+."""
    return int(re.sub(r"\D.*", "", text) or 0)


def gpus_in(gres: str) -> int:
    """Of generic resources such as gpu:a100:8(S:0-1)."""
    return sum(int(count) for count in re.findall(r"\bgpu(?::[^:,(]+)?:(\d+)", gres))


def check_shape(config: RunConfig | None, site: SiteConfig) -> Iterator[Finding]:
    """Whether a node gets a process for each GPU, and each process its CPUs."""
    text = f"{site.nodes} x {site.tasks} processes, {site.gpus_per_node} GPUs a node"
    if site.gpus_per_node and site.tasks != site.gpus_per_node:
        cure = f"leave tasks_per_node out of the site file, or set it to {site.gpus_per_node}"
        yield Finding("processes", "fail", f"{text}: a run has one process for each GPU", cure)
    else:
        wrong = differing(config, site) if config else ""
        cure = "make them agree, or leave trainer.devices and trainer.nodes out of the recipe"
        yield Finding("processes", "fail", f"{text}, but {wrong}", cure) if wrong else Finding("processes", "ok", text)
    if config is None:
        return
    busy = 1 + config.data.workers
    text = f"{site.cpus_per_task} CPUs for each process; data.workers {config.data.workers} and training itself keep {busy} busy"
    if site.cpus_per_task >= busy:
        yield Finding("cpus", "ok", text)
    else:
        cure = f"set cpus_per_task: {busy} in the site file, or data.workers={site.cpus_per_task - 1}"
        yield Finding("cpus", "warn", text, cure)


def differing(config: RunConfig, site: SiteConfig) -> str:
    """Where the recipe asks for other processes than the site."""
    pairs = (("devices", config.trainer.devices, site.tasks), ("nodes", config.trainer.nodes, site.nodes))
    return " and ".join(f"trainer.{name} is {asked}" for name, asked, given in pairs if asked is not None and asked != given)


def check_leaving(slurm: Facts, site: SiteConfig | None, save_s: float | None) -> Iterator[Finding]:
    """The time between a signal and the end against that of a checkpoint."""
    if site is not None:
        text = f"a job is told {site.signal_s} s before its time limit (signal_s)"
        if save_s is None:
            yield Finding("time to leave", "ok", text)
        else:
            needed = round(SAFETY * save_s + 0.5)
            text += f"; a checkpoint takes about {save_s:.1f} s"
            level = "fail" if site.signal_s <= save_s else "warn" if site.signal_s < needed else "ok"
            yield Finding(
                "time to leave", level, text, "" if level == "ok" else f"set signal_s: {max(needed, 60)} in the site file"
            )
    wait = whole(slurm.get("KillWait", ""))
    text = f"after `scancel` and `scontrol requeue` a job is killed in {wait} s (KillWait)"
    if save_s is None or save_s < wait:
        yield Finding("kill wait", "ok", text)
    else:
        cure = "stop a run with `scancel --signal=USR1 JOB`, which leaves it all the time it needs"
        text += f"; a checkpoint takes about {save_s:.1f} s, so steps since the last one are lost"
        yield Finding("kill wait", "warn", text, cure)


def check_preemption(name: str, slurm: Facts, partition: Facts, site: SiteConfig | None, save_s: float | None) -> Finding:
    """What happens to a job that another one drives out, and how long it has."""
    off = slurm.get("PreemptType", "preempt/none").endswith("none") or slurm.get("PreemptMode", "OFF") == "OFF"
    mode = "OFF" if off else partition.get("PreemptMode", slurm.get("PreemptMode", "OFF"))
    if mode.split(",")[0] == "OFF":
        return Finding("preemption", "ok", f"jobs in {name} are not preempted")
    grace = whole(partition.get("GraceTime", "0"))
    ours = "preempt_send_user_signal" in slurm.get("SlurmctldParameters", "")
    told = "with the job's own signal" if ours and site is not None else "with SIGTERM"
    text = f"a preempted job in {name} gets {grace} s (GraceTime), told {told}; then {mode}"
    cure = "ask for another partition, or lower checkpoint.every_minutes so that little is lost"
    if grace == 0 or (save_s is not None and grace < SAFETY * save_s):
        taken = f" (about {save_s:.1f} s)" if save_s is not None else ""
        return Finding("preemption", "warn", f"{text}; that may be too little for a checkpoint{taken}", cure)
    return Finding("preemption", "ok", f"{text}; a run writes a checkpoint and goes back into the queue by itself")


def check_requeue(slurm: Facts) -> Finding:
    """Whether jobs go back into the queue unless they say otherwise."""
    if slurm.get("JobRequeue") == "1":
        return Finding("requeue", "ok", "jobs may be queued again (JobRequeue=1)")
    text = "jobs are not queued again unless they ask for it (JobRequeue=0)"
    return Finding("requeue", "warn", text, "submit with `jepa submit`, which asks for it, or give sbatch --requeue")


def check_job(site: SiteConfig) -> Finding:
    """Let Slurm itself judge what would be asked for, without queueing anything."""
    gpus = f"{site.gpu_type}:{site.gpus_per_node}" if site.gpu_type else f"{site.gpus_per_node}"
    wanted = {
        **{name: getattr(site, name) for name in ("partition", "account", "qos", "constraint", "exclude", "reservation")},
        **{"nodes": site.nodes, "ntasks-per-node": site.tasks, "cpus-per-task": site.cpus_per_task, "time": site.time},
        **{"gpus-per-node": gpus if site.gpus_per_node else None},
        **{"mem": f"{round(1024 * site.memory_gb)}M" if site.memory_gb else None},
        **{name: value for name, value in site.extra.items() if value is not False},
    }
    options = [f"--{name}" if value is True else f"--{name}={value}" for name, value in wanted.items() if value is not None]
    command = ["sbatch", "--test-only", *options, "--wrap=true"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("job", "skipped", f"sbatch --test-only does not answer ({error})")
    said = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in done.stderr.splitlines())
    if done.returncode:
        return Finding("job", "fail", f"Slurm refuses such a job: {said}", "change the site file, or ask the cluster's people")
    start = re.search(r"to start at (\S+)", said)
    return Finding("job", "ok", f"Slurm takes such a job; begun now, it would start at {start[1]}" if start else said)
