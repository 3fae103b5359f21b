"""The parts of a chaos run: what it compares, which ends it accepts, what it does to data, and in which order."""

import shutil
import signal
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from rich.console import Console

from jepa_pipeline.commands.faults import choose_faults, deck, repeat_command
from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data import remote
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.selftest.chaos import plan_starts
from jepa_pipeline.selftest.faults import DATA_FAULTS, FAULTS, SIGNALS, SURVIVED, Strike, judge
from jepa_pipeline.selftest.places import damaged, link_data, serve, with_sources
from jepa_pipeline.selftest.runs import compare_results, file_names

TOTAL = 24


@pytest.fixture(scope="module")
def finished(tiny_below, tmp_path_factory):
    """A finished run with hashes of every step."""
    config = tiny_below(tmp_path_factory.mktemp("runs"), "log.hashes_every_steps=1", "checkpoint.every_steps=2")
    return pretrain(config, Console(quiet=True))


def change_a_weight(run):
    path = run / "encoder/model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def lose_a_step(run):
    path = run / "metrics.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))


def damage_the_checkpoint(run):
    (path,) = (run / "checkpoints/last/").glob("*.distcp")
    path.write_bytes(path.read_bytes()[::-1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (change_a_weight, "values at the end differ, first model.safetensors"),
        (lose_a_step, r"differs first at step 6: .* \(metrics.jsonl\)"),
        (damage_the_checkpoint, "distcp is not what was written"),
        (lambda run: shutil.rmtree(run / "encoder"), "3 files are missing, such as encoder"),
        (lambda run: (run / "encoder/.tmpAB").touch(), "1 files are left behind, such as encoder/.tmpAB"),
        (lambda run: (run / "checkpoints/step-00000003.partial").mkdir(), "left behind, such as checkpoints/step-N.partial"),
    ],
)
def test_whatever_differs_or_is_left_is_found(finished, tmp_path, change, says):
    other = tmp_path / "other"
    shutil.copytree(finished, other, symlinks=True)
    assert compare_results(finished, other) == []
    change(other)
    with pytest.raises(AssertionError, match=says):
        assert not compare_results(finished, other)


def test_checkpoints_of_other_steps_are_no_other_files(finished):
    assert {"checkpoints/step-N/about.json", "checkpoints/last", "encoder/model.safetensors"} <= file_names(finished)


@pytest.mark.parametrize(
    ("fault", "phase", "step", "code", "checkpoint", "problem"),
    [
        ("kill", "steps", 9, -9, 6, None),
        ("kill", "steps", 9, 1, 6, "exit code 1"),
        ("kill", "steps", 9, None, 6, "it hangs"),
        ("kill-one", "steps", 9, 2, 6, None),
        ("kill-one", "steps", 9, 71, 6, None),
        ("kill-one", "steps", 9, 1, 6, "exit code 1"),
        ("sigterm", "steps", 9, 75, 9, None),
        ("sigterm", "steps", 9, 75, 10, None),
        ("sigterm", "steps", 9, 75, 6, "stopped at step 6, so steps are lost"),
        ("sigterm", "steps", 9, -15, 6, "exit code -15"),
        ("sigterm", "imports", 6, -15, 6, None),
        ("sigterm", "setup", 9, 75, 6, None),
        ("sigterm", "end", TOTAL, -15, TOTAL, None),
        ("sigint", "imports", 0, 130, 0, None),
        ("full-disk", "checkpoint", 9, 2, 6, None),
        ("full-disk", "checkpoint", 9, 1, 6, "exit code 1"),
        ("damaged-shards", "imports", 9, 2, 9, None),
        ("damaged-shards", "imports", 9, 0, 12, "exit code 0"),
        ("slow-server", "imports", 9, 2, 9, "exit code 2"),
        ("stop", "steps", 9, 2, 9, "exit code 2"),
        ("nothing", "end", TOTAL, 1, TOTAL, "exit code 1"),
        *((fault, "steps", 9, 0, TOTAL, None) for fault in (*FAULTS, "nothing")),
    ],
)
def test_the_ends_that_a_fault_may_have(fault, phase, step, code, checkpoint, problem):
    assert judge(Strike(fault, "", phase, step), code, checkpoint, TOTAL) == problem


@pytest.mark.parametrize("count", [1, 5, 20])
def test_faults_come_in_a_seeded_order_none_before_all_others(count):
    faults = deck(FAULTS, count, seed=3)
    assert faults == deck(FAULTS, count, seed=3) and deck(FAULTS, 20, seed=3) != deck(FAULTS, 20, seed=4)
    times = Counter({name: faults.count(name) for name in FAULTS}).values()
    assert len(faults) == count and max(times) - min(times) <= 1
    starts = plan_starts(faults)
    met = Counter(name for start in starts for name in start)
    assert all(met[name] == faults.count(name) for name in FAULTS if name != "slow-server"), "a start has one server"
    for start in starts:
        assert all(name in SURVIVED for name in start[:-1]) and ("damaged-shards" not in start or len(start) == 1)


def test_only_faults_that_are_known_and_can_meet_the_data(tiny):
    assert choose_faults(tiny(), []) == [*FAULTS]
    assert choose_faults(tiny(), ["sigint", "kill"]) == ["kill", "sigint"]
    far = tiny("data.train=http://127.0.0.1:9/set")
    assert choose_faults(far, []) == [name for name in FAULTS if name not in DATA_FAULTS]
    with pytest.raises(UserError, match="--only slow-server needs shards on this machine"):
        choose_faults(far, ["slow-server"])
    with pytest.raises(UserError, match="--only fire is not a fault: give one of kill, "):
        choose_faults(far, ["fire"])


def test_the_command_that_repeats_a_run_keeps_the_words_of_the_recipe():
    assert repeat_command(["a.yaml", "name=a b"], 7, 8, 24, ["kill", "stop"]) == (
        "jepa selftest faults a.yaml 'name=a b' --seed 7 --faults 8 --steps 24 --only=kill --only=stop"
    )


def media(location, cache=None):
    """Return the bytes of every sample of a data set."""
    data = Shards(location, cache=cache)
    return [data.read(*place).media for place in data.locate(range(int(data.starts[-1])))]


def test_links_are_the_same_data_and_no_damage_reaches_what_they_link_to(tiny, tmp_path):
    config = tiny()
    (source,) = config.data.train
    linked = link_data(config, tmp_path / "links").data.train[0].path
    assert load_manifest(linked).hash() == load_manifest(source.path).hash() and media(linked) == media(source.path)
    before, met = media(source.path), set()
    for seed in range(12):
        with damaged(tmp_path / "links", Random(seed)) as target:
            met.add(target.split()[0])
            with pytest.raises(UserError):
                load_manifest(linked)
                assert media(linked) != before  # zeros are bytes too, and no image
                raise UserError("its samples are not those of the source")
        assert media(linked) == media(source.path) == before
    assert met == {"cut", "overwritten", "missing"}


@pytest.mark.parametrize("seed", range(4))
def test_a_slow_server_that_fails_delivers_all_samples_in_the_end(tiny, shards, tmp_path, monkeypatch, seed):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr("jepa_pipeline.selftest.places.SLOW_S", 0.01)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    remote.connect.cache_clear()
    linked = Path(link_data(tiny(), tmp_path / "links").data.train[0].path)
    with serve(linked.parent, seed) as url:
        assert media(f"{url}/0", CacheConfig(folder=tmp_path / "cache")) == media(shards / "train")
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_data_elsewhere_leave_the_rest_of_the_section_as_it_is(tiny):
    config = tiny("data.train=[{path: a, weight: 3}, b]")
    moved = with_sources(config, ["c", "d"], workers=1).data
    assert [(source.path, source.weight) for source in moved.train] == [("c", 3), ("d", 1)]
    assert moved.workers == 1 and moved.damage == config.data.damage


def test_signals_are_those_that_a_run_handles():
    assert {*SIGNALS.values()} == {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
