"""What is submitted to Slurm, and how its answers are parsed; no cluster is needed."""

import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer

from jepa_pipeline.checks.recipe import check_run_folder
from jepa_pipeline.cli import app
from jepa_pipeline.cli.cluster import parse_follower, rewrite_submit
from jepa_pipeline.cluster.logs import last_messages, tail
from jepa_pipeline.cluster.progress import Progress, read_last_values
from jepa_pipeline.cluster.records import JobRecord, read_records, save_record
from jepa_pipeline.cluster.sbatch import Dependency, JobSpec, build_script, parse_sbatch_error
from jepa_pipeline.cluster.sbatch import submit as submit_jobs
from jepa_pipeline.cluster.states import JobState, expand_array, parse_sacct, parse_squeue
from jepa_pipeline.commands.jobs import find_records, format_table
from jepa_pipeline.commands.submit import (
    CommandLine,
    Sweep,
    expand_sweep,
    format_hints,
    refuse_queued_runs,
    submit_pretraining,
)
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.parse import load_overrides
from jepa_pipeline.config.site import SiteConfig, load_site, minutes_of
from jepa_pipeline.config.sweep import shorten_keys, split_values

ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "configs/debug/ijepa.yaml"
ROOT_COMMAND = typer.main.get_command(app)
SITES = [*ROOT.glob("slurm/*.yaml"), ROOT / "slurm/dev-cluster/site.yaml"]
DEV = str(ROOT / "slurm/dev-cluster/site.yaml")


def site(*overrides):
    return load_overrides(SiteConfig, ["time=1:00:00", *overrides])


def jepa(*arguments, cwd=None, **environment):
    """The command, as `main` will rewrite it."""
    words = [str(word) for word in arguments]
    code = f"import sys; sys.argv = ['jepa', *{rewrite_submit(words) or words!r}]; from jepa_pipeline.cli import main; main()"
    base = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=cwd, env=base | environment)


@pytest.mark.parametrize(
    ("time", "minutes"),
    [("90", 90), ("90:30", 91), ("1:00:00", 60), ("24:00:00", 1440), ("1-0", 1440), ("2-12:30", 3630), ("2-12:30:01", 3631)],
)
def test_times_are_read_as_slurm_reads_them(time, minutes):
    assert minutes_of(time) == minutes


@pytest.mark.parametrize("path", SITES, ids=lambda path: path.name)
def test_every_site_file_of_the_project_can_be_read(path):
    assert load_site(path).minutes > 0


def test_a_site_keeps_times_and_words_as_they_are_written(tmp_path):
    path = tmp_path / "site.yaml"
    path.write_text("time: 24:00:00\nqos: no\nenvironment: {OMP_NUM_THREADS: 1}\ngpus_per_node: 8\nnodes: 010\n")
    read = load_site(path, ["time=90"])
    assert (read.time, read.qos, read.environment, read.nodes, read.tasks, read.ranks) == (
        "90",
        "no",
        {"OMP_NUM_THREADS": "1"},
        10,
        8,
        80,
    )
    assert load_site(path).time == "24:00:00"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ("acount=x", "did you mean 'account'"),
        ("time=soon", "is not a time limit, such as 90"),
        ("time=0", "is not a time limit"),
        ("time=2:99:00", "is not a time limit.*the last two below 60"),
        ("signal_s=1801", r"more than half of time 1:00:00 \(3600 s\).*set signal_s to 1800"),
        ("extra.nodes=2", "duplicates the key nodes"),
        ("extra.mem=2", "duplicates the key memory_gb"),
        ("extra.output=x", "remove it"),
        ("environment.A-B=1", "not a variable name"),
        ("container_mounts=['/a:/a']", "without container"),
    ],
)
def test_a_wrong_site_is_one_sentence(wrong, says):
    with pytest.raises(UserError, match=says):
        site(wrong)


def test_the_site_is_found_by_option_then_variable_then_home(tmp_path, monkeypatch):
    monkeypatch.delenv("JEPA_SITE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"`jepa config copy sites/generic .*jepa_pipeline/site.yaml`"):
        load_site()
    for name, place in (
        ("home", tmp_path / "jepa_pipeline/site.yaml"),
        ("variable", tmp_path / "v.yaml"),
        ("option", tmp_path / "o.yaml"),
    ):
        place.parent.mkdir(exist_ok=True)
        place.write_text(f"time: 50\npartition: {name}\n")
    assert load_site().partition == "home"
    monkeypatch.setenv("JEPA_SITE", str(tmp_path / "v.yaml"))
    assert load_site().partition == "variable" and load_site(tmp_path / "o.yaml").partition == "option"
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("JEPA_SITE", "~/v.yaml")
    assert load_site().partition == "variable" and load_site(Path("~/o.yaml")).partition == "option"
    monkeypatch.setenv("JEPA_SITE", "~/none.yaml")
    with pytest.raises(UserError, match=r"no file .*none.yaml, which \$JEPA_SITE names"):
        load_site()


def options(text):
    lines = [line.removeprefix("#SBATCH --").partition("=") for line in text.splitlines() if line.startswith("#SBATCH")]
    return {key: value for key, _, value in lines}


WORK = JobSpec("pretrain-a", ["pretrain", "a.yaml", "x=[1, 2]"], Path("runs/a/jobs"), distributed=True)


def test_the_script_asks_for_all_that_the_site_says():
    whole = site(
        "nodes=2",
        "gpus_per_node=8",
        "gpu_type=a100",
        "cpus_per_task=6",
        "memory_gb=400",
        "partition=p",
        "account=me",
        "extra.exclusive=true",
    )
    text = build_script([WORK], whole, Dependency(("7", "8")))
    said = options(text)
    assert said["gpus-per-node"] == "a100:8" and said["ntasks-per-node"] == "8" and said["nodes"] == "2" and said["mem"] == "400G"
    assert said["signal"] == "USR2@180" and said["open-mode"] == "append" and said["time"] == "1:00:00" and said["account"] == "me"
    assert said["dependency"] == "afterok:7:8" and said["kill-on-invalid-dep"] == "yes" and {"requeue", "exclusive"} <= said.keys()
    assert (
        said["chdir"] == str(Path.cwd()) and said["output"].endswith("/runs/a/jobs/pretrain-%j-rank0.log") and "wckey" not in said
    )
    (started,) = [line for line in text.splitlines() if line.startswith("srun ")]
    assert (
        "--cpus-per-task=6" in started
        and "--kill-on-bad-exit=0 --wait=600" in started  # one that is stopped is ended by nothing else
        and "pretrain-%j-rank%t.log" in started
        and "# command: jepa pretrain a.yaml 'x=[1, 2]'" in text
    )


def test_a_job_of_one_process_asks_for_its_share():
    said = options(build_script([WORK._replace(distributed=False)], site("nodes=2", "gpus_per_node=8", "memory_gb=400")))
    assert (said["nodes"], said["ntasks-per-node"], said["gpus-per-node"], said["mem"]) == ("1", "1", "1", "50G")
    assert said["output"].endswith("pretrain-%j.log")


def test_setup_environment_and_container_come_before_the_command():
    text = build_script(
        [WORK],
        site("setup=[module load cuda]", "environment.A='b c'", "container=/i.sqsh", "container_mounts=['/d:/d']", "python=py"),
    )
    lines = text.splitlines()
    assert (
        lines.index("export A='b c'")
        < lines.index("eval 'module load cuda' || { echo 'setup line failed: module load cuda' >&2; exit 2; }")
        < next(n for n, line in enumerate(lines) if line.startswith("srun"))
    )
    assert "--container-image=/i.sqsh" in text and "--container-mounts=/d:/d py -u -m submitit" in text


def test_a_line_of_the_setup_that_fails_ends_the_job(tmp_path):
    setup = ["export A=1 # | {", "[ $A = 1 ]", "load 'x y'", "touch went-on"]
    path = tmp_path / "job.sh"
    path.write_text(build_script([WORK], site().model_copy(update={"setup": tuple(setup)})))
    done = subprocess.run(["bash", path], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2 and "setup line failed: load 'x y'" in done.stderr and not (tmp_path / "went-on").exists()


def test_several_works_are_one_array():
    works = [WORK, WORK._replace(name="pretrain-b", command=["pretrain", "b.yaml"])]
    text = build_script(works, site(), max_parallel=1, logs=Path("runs/s/jobs"))
    assert options(text)["array"] == "0-1%1" and options(text)["output"].endswith("runs/s/jobs/pretrain-%A_%a.log")
    assert "# command of array task 1: jepa pretrain b.yaml" in text


def test_a_line_break_in_an_argument_stays_in_the_comment():
    text = build_script([WORK._replace(command=["pretrain", "a\nrm -rf /tmp/x"])], site())
    assert not any(line.startswith("rm") for line in text.splitlines())


def names(sweep):
    return [config.name for _, config in sweep.runs]


def test_a_sweep_is_every_combination_under_a_readable_name():
    sweep = expand_sweep(
        CommandLine(("pretrain",), (str(RECIPE),)), RECIPE, [], ["optim.lr=1e-4,3e-4", "seed=0,1", "trainer.precision=bf16"]
    )
    assert names(sweep) == [f"debug_ijepa-lr{lr}-seed{seed}" for lr in ("1e-4", "3e-4") for seed in (0, 1)]
    assert sweep.name == "debug_ijepa-sweep-lr-seed"
    command, config = sweep.runs[-1]
    assert command.arguments == (str(RECIPE), "optim.lr=3e-4", "seed=1", "trainer.precision=bf16", f"name={config.name}")
    assert (config.optim.lr, config.seed, config.trainer.precision) == (3e-4, 1, "bf16")


def test_names_of_a_sweep_are_valid_and_differ():
    scales = [
        "method.masks.target_scale=[0.15,0.2],[0.15,0.25]",
        "method.encoder.depth=1,2",
        "method.predictor.depth=1",
        "data.train=/a/b,/a_b",
    ]
    assert len(set(names(expand_sweep(CommandLine(("pretrain",), ()), RECIPE, [], scales)))) == 8
    assert "debug_ijepa-target_scale0.15_0.25-depth2-train_a_b-2" in names(
        expand_sweep(CommandLine(("pretrain",), ()), RECIPE, [], scales)
    )
    assert shorten_keys(["a.depth", "b.depth", "lr"]) == {"a.depth": "a.depth", "b.depth": "b.depth", "lr": "lr"}


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2", ["1", "2"]),
        ("[[1,2],[3,4]],[5]", ["[[1,2],[3,4]]", "[5]"]),
        ("{a: {b: 1, c: [2, 3]}, d: 4},null", ["{a: {b: 1, c: [2, 3]}, d: 4}", "null"]),
        ("['a]', b],\"x,y\"", ["['a]', b]", '"x,y"']),
        ("it's,b", ["it's", "b"]),
        ("[1,2", []),
    ],
)
def test_commas_in_brackets_and_quotes_are_a_values_own(text, values):
    assert split_values(text) == values


def test_without_a_sweep_there_is_one_run_as_it_was_said():
    verb = CommandLine(("pretrain",), (str(RECIPE), "seed=3"))
    sweep = expand_sweep(verb, RECIPE, ["seed=3"], [])
    assert sweep.name is None and [one for one, _ in sweep.runs] == [verb] and sweep.runs[0][1].seed == 3


@pytest.mark.parametrize(
    ("sweep", "says"),
    [
        (["lr"], "is not KEY=VALUE"),
        (["seed=1", "seed=2"], "seed=1,2"),
        (["name=a,b"], "own name.*put name=… before --sweep"),
        (["optim.lr=1e-4,0.0001"], "debug_ijepa-lr1e-4 and debug_ijepa-lr0.0001.*equal values: remove one value"),
        (["seed=1,1"], "twice"),
        (["seed=0,x"], "seed"),
    ],
)
def test_a_wrong_sweep_is_one_sentence(sweep, says):
    with pytest.raises(UserError, match=says):
        expand_sweep(CommandLine(("pretrain",), ()), RECIPE, [], sweep)


@pytest.mark.parametrize(
    ("words", "becomes"),
    [
        (["pretrain", "c"], None),
        (["pretrain", "c", "--submit"], ["submit", "pretrain", "c"]),
        (["probe", "r", "--submit", "--dry-run"], ["submit", "probe", "r", "--dry-run"]),
        (["submit", "pretrain", "c"], ["submit", "pretrain", "c"]),
        (["pretrain", "c", "--submit", "--sweep", "a=1,2", "b=3,4", "--then", "x=y"], ["submit", "pretrain", "c", "--sweep", "a=1,2", "--sweep", "b=3,4", "--then", "x=y"]),
        (["pretrain", "c", "--sweep", "a=1,2", "--submit", "name=x"], ["submit", "pretrain", "c", "--sweep", "a=1,2", "name=x"]),
        (["submit", "pretrain", "--sweep=a=1,2", "b=3,4", "c", "d=5"], ["submit", "pretrain", "--sweep=a=1,2", "--sweep", "b=3,4", "c", "d=5"]),
        (["pretrain", "c", "--", "--submit"], None),
    ],
)  # fmt: skip
def test_submit_as_an_option_is_the_verb(words, becomes):
    assert rewrite_submit(words) == becomes


def test_what_follows_is_given_the_run():
    assert parse_follower(ROOT_COMMAND, "probe --data 's3://a b'").on(Path("runs/x")) == ["probe", "runs/x", "--data", "s3://a b"]
    for wrong, says in (
        ("prob", "did you mean 'probe'"),
        ("shards demo", "does not work on a run"),
        ("probe 'x", "no closing quotation"),
        ("export runs/x", "remove runs/x, because the run is passed as the first argument"),
        ("probe runs/x", "remove runs/x, because the run is passed as the first argument"),
        ("probe iteration=3", "did you mean 'iterations'"),
        ("probe --data /nowhere", "/nowhere/train"),
    ):
        with pytest.raises(UserError, match=says):
            parse_follower(ROOT_COMMAND, wrong)


@pytest.fixture
def place(tmp_path, shards):
    """A folder from which the debug recipe finds its data."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/demo").symlink_to(shards)
    return tmp_path


def test_a_dry_run_prints_the_chain_and_leaves_nothing(place):
    done = jepa(
        "pretrain",
        RECIPE,
        "--submit",
        "--site",
        DEV,
        "--dry-run",
        "--then",
        "probe --data data/demo",
        "--sweep",
        "seed=0,1",
        "optim.lr=1e-3,2e-3",
        cwd=place,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("#!/bin/bash") == 3 and options(done.stdout)["dependency"] == "afterany:JOB2"
    assert "aftercorr:JOB1" in done.stdout and "--array=0-3%4" in done.stdout and not (place / "runs").exists()
    assert "# command: jepa table runs/debug_ijepa-seed0-lr1e-3" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pretrain", RECIPE, "--submit", "--set", "nodes=3"], "is not divisible by 3 devices"),
        (["pretrain", RECIPE, "--submit", "optim.lr=x"], "'optim.lr' is 'x'"),
        (["pretrain", RECIPE, "--submit", "--set", "memory_gb=0.0001"], "a node of the site (memory_gb) has"),
        (["pretrain", RECIPE, "--submit", "data.train=nowhere"], "nowhere"),
        (["pretrain", RECIPE, "trainer.devices=2", "--submit"], "the site's tasks_per_node is 1"),
        (["pretain", RECIPE, "--submit"], "did you mean 'pretrain'"),
        (["submit", "jobs"], "is not a command that can be submitted"),
        (["probe", "nowhere", "--submit"], "no folder nowhere"),
        (["probe", ".", "--data", "d", "--submit", "--sweep", "a=1,2"], "are for pretrain"),
        (["config", "show", "--submit", "--then", "export"], "does not: submit both separately"),
        (["probe", ".", "--data", "d", "--submit"], "d/train"),
        (["probe", ".", "iteration=3", "--submit"], "did you mean 'iterations'"),
        (["probe", ".", "--submit", "--after", "abc"], "--after abc is not a job id"),
        (["shards", "build", "nowhere", "out", "--submit"], "no folder nowhere"),
        (["pretrain", RECIPE, "--submit", "probing.every_steps=5", "probing.site=none.yaml"], "no file none.yaml"),
        (["jobs"], "no folder runs"),
        (["logs", "7"], "no job 7"),
        (["cancel", "7"], "no job 7"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_queued(words, says, place):
    before = sorted(place.iterdir())
    done = jepa(*words, cwd=place, JEPA_SITE=DEV)
    assert done.returncode == 2 and says in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert sorted(place.iterdir()) == before


def test_wrong_options_of_the_verb_are_its_own_error(place):
    done = jepa("submit", "probe", "x", "--dta", "y", cwd=place)
    assert done.returncode == 2 and "jepa probe" in done.stderr and "--dta" in done.stderr


def test_without_slurm_a_sentence_names_the_dry_run(tiny, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=r"sbatch and srun are not on PATH.*--dry-run"):
        submit_pretraining(Sweep([(CommandLine(("pretrain",), ("x",)), tiny())]), site())


def test_a_run_that_is_queued_is_not_queued_again(tiny, tmp_path, monkeypatch, capsys):
    config, command = tiny(), tmp_path / "bin/squeue"
    command.parent.mkdir()
    command.write_text("#!/bin/sh\necho '12|RUNNING|1:00|None'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(command.parent))
    save_record(record(config.folder, "12", command=("pretrain", "x")))
    with pytest.raises(UserError, match=r"job 12 of .*tiny is RUNNING: wait for it"):
        submit_pretraining(Sweep([(CommandLine(("pretrain",), ("x",)), config)]), site())
    submit_pretraining(Sweep([(CommandLine(("pretrain",), ("x",)), config)]), site(), dry_run=True)
    assert "#SBATCH" in capsys.readouterr().out
    command.write_text("#!/bin/sh\necho '13|RUNNING|1:00|None'\n")
    refuse_queued_runs([config.folder])


def record(run, id, command=("probe", "x"), seconds=0, **values):
    given = {
        "id": id,
        "name": f"{command[0]}-{run.name}",
        "command": command,
        "cwd": run,
        "folder": run / "jobs",
        "log": str(run / f"jobs/{id}-rank%t.log"),
    }
    return JobRecord(submitted=datetime.fromtimestamp(seconds, UTC), **(given | values))


def test_records_are_found_in_the_order_of_submission(tmp_path, capsys):
    late, early = record(tmp_path / "b", "1", seconds=2), record(tmp_path / "a", "2_1", seconds=1, after=("7",))
    save_record(late)
    save_record(early)
    (tmp_path / "a/jobs/3.json").write_text("{")
    assert read_records(tmp_path) == [early, late] and read_records(tmp_path / "a") == [early]
    assert "3.json is not a job record" in capsys.readouterr().err
    assert late.log_of(3) == tmp_path / "b/jobs/1-rank3.log" and late.run == tmp_path / "b"
    for name, jobs in (("2", [early]), ("2_1", [early]), ("b", [late]), (str(tmp_path / "b"), [late])):
        assert find_records(name, [early, late], tmp_path) == jobs


def test_sacct_is_read_with_its_requeues_arrays_and_who_canceled():
    found = parse_sacct(
        "10|PREEMPTED|00:01:00|0:0\n10|REQUEUED|00:02:00|0:0\n10|RUNNING|00:00:07|0:0\n11|CANCELLED by 0|00:00:05|0:15\n"
        "12_[1-2,5%2]|PENDING|00:00:00|0:0\n12_0|FAILED|1-00:00:01|2:0\n13|TIMEOUT|00:30:00|0:0\n14|OUT_OF_MEMORY|00:00:01|0:125\n"
    )
    assert found["10"] == JobState("RUNNING", "", 2, "00:00:07", "0") and str(found["10"]) == "RUNNING (restarts: 2)"
    assert str(found["11"]) == "CANCELLED (by root)" and found["11"].ended and not found["11"].failed
    assert set(found) == {"10", "11", "12_0", "12_1", "12_2", "12_5", "13", "14"}
    assert str(found["12_0"]) == "FAILED (exit 2)" and found["12_5"].live and found["13"].failed
    assert str(found["14"]) == "OUT_OF_MEMORY (exit signal 125)"


def test_squeue_says_why_a_job_waits():
    found = parse_squeue("20|PENDING|0:00|Dependency\n21_3|RUNNING|1-02:03:04|None\n22|COMPLETING|0:10|None\n")
    assert str(found["20"]) == "PENDING (Dependency)" and str(found["21_3"]) == "RUNNING" and found["22"].live
    assert list(expand_array("9_[0-2,7%3]")) == ["9_0", "9_1", "9_2", "9_7"] and list(expand_array("9_4")) == ["9_4"]


def test_what_sbatch_refuses_is_one_line():
    assert parse_sbatch_error(
        "sbatch: error: invalid partition specified: x\nsbatch: error: Batch job submission failed: Invalid partition\n"
    ) == ("invalid partition specified: x; Batch job submission failed: Invalid partition")


def commands(folder, **scripts):
    """Programs in place of Slurm's."""
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return f"{folder}:/usr/bin:/bin"


def test_a_refused_job_leaves_nothing_and_says_it_once(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("PATH", commands(tmp_path, sbatch="echo 'sbatch: error: invalid partition' >&2; exit 1", srun=""))
    (tmp_path / "run").mkdir()
    with pytest.raises(UserError, match=r"^Slurm refused the job: invalid partition; `jepa doctor` checks the site file"):
        submit_jobs([WORK._replace(folder=tmp_path / "run/jobs")], site())
    assert capfd.readouterr().err == "" and not list((tmp_path / "run").iterdir())


def test_without_submitit_a_sentence_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(UserError, match=r"^submitit is not installed in this Python: pip install"):
        build_script([WORK], site())


def test_a_changed_recipe_is_refused_before_it_is_queued(tiny, monkeypatch):
    from jepa_pipeline.training.checkpoint import CheckpointInfo

    config = tiny()
    (config.folder / "checkpoints").mkdir(parents=True)
    assert check_run_folder(config) == []
    told = {"version": "1", "torch": "2", "device": "cuda", "data": "x", "config_hash": config.hash()}
    about = CheckpointInfo(step=1, samples=8, results=config.results(), **told)
    for module in ("checkpoint", "run_folder"):
        monkeypatch.setattr(f"jepa_pipeline.training.{module}.latest_info", lambda _: about)
    assert check_run_folder(config) == []
    (result,) = check_run_folder(config.model_copy(update={"seed": 7}))
    assert result.level == "fail" and re.search(r"differs from this one:\n.*\n  seed .*\n.*choose another name", result.text)


def test_a_job_knows_the_site_that_was_named(place):
    (place / "s.yaml").write_text("time: 30\n")
    done = jepa("pretrain", RECIPE, "--submit", "--dry-run", "--site", "s.yaml", cwd=place)
    assert f"export JEPA_SITE={place / 's.yaml'}" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("folder", "where"), [("runs/a/jobs", ""), ("runs/jobs", ""), ("a/jobs", " ."), ("jobs", " ."), ("b c/a/jobs", " 'b c'")]
)
def test_the_hints_name_the_folder_unless_it_is_runs(folder, where):
    said = format_hints([WORK._replace(folder=Path(folder))], ["7"])
    assert f"jepa jobs{where}\n" in said and said.endswith(f"jepa cancel 7{' --folder' * bool(where)}{where}")


def health(rank, std, cosine):
    return Progress(rank=rank, std=std, cosine=cosine).verdict


def test_the_verdict_is_of_the_targets():
    assert health(34.2, 0.5, 0.1) == "rank 34" and health(None, None, None) == "-"
    assert {health(1.5, 0.5, 0.1), health(30.0, 1e-5, 0.1), health(30.0, 0.5, 0.999)} == {"collapsed"}


def test_the_newest_values_are_read_from_the_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    rows = [
        json.dumps({"step": step, "loss": step / 2, **({"health/target_rankme": 3.0} if step == 9_000 else {})})
        for step in range(10_000)
    ]
    path.write_text("\n".join(rows) + '\n{"step": 10000, "lo')
    assert read_last_values(path) == {"step": 9999, "loss": 4999.5, "health/target_rankme": 3.0}
    assert read_last_values(tmp_path / "none") == {}


def test_a_failed_job_shows_its_last_words(tmp_path):
    from jepa_pipeline.commands.jobs import Job

    failed = record(tmp_path / "a", "5", command=("probe", "x"))
    failed.folder.mkdir(parents=True)
    failed.log_of(0).write_text("".join(f"line {n}\n" for n in range(1000)) + "submitit INFO x\nthe reason\n")
    assert (
        last_messages(failed)[-1] == "the reason"
        and len(last_messages(failed)) == 5
        and tail(failed.log_of(0), 1) == ["the reason"]
    )
    shown = format_table([Job(failed, JobState("FAILED", exit="2"), Progress())])
    assert "FAILED (exit 2)" in shown[1] and shown[-1].strip() == "| the reason"


def test_jobs_without_slurm_still_says_how_far_runs_are(tiny, tmp_path):
    from jepa_pipeline.config.render import to_yaml

    config = tiny()
    save_record(record(config.folder, "5", command=("pretrain", "x")))
    save_record(record(config.folder, "6", command=("pretrain", "x"), seconds=1))
    (config.folder / "config.yaml").write_text(to_yaml(config))
    (config.folder / "metrics.jsonl").write_text('{"step": 4, "loss": 0.5, "samples_per_s": 1234.5}\n')
    done = jepa("jobs", config.folder.parent, cwd=tmp_path, PATH="")
    assert "job states are unknown: squeue is not on PATH" in done.stderr and done.returncode == 0
    assert done.stdout.splitlines()[1].split() == [
        "6",
        "pretrain",
        "tiny",
        "UNKNOWN",
        "4/6",
        "0.5000",
        "1,234",
        "-",
        "-",
        done.stdout.split()[-1],
    ]
    rows = json.loads(jepa("jobs", config.folder.parent, "--json", "--all", cwd=tmp_path, PATH="").stdout)["jobs"]
    assert [row["job"] for row in rows] == ["5", "6"] and rows[1]["step"] == 4 and rows[1]["state"] == "UNKNOWN"
