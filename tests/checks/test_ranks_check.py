"""Ranks that differ, or do not share a folder, are named; ranks that are alike pass."""

import multiprocessing
import traceback

import pytest
import torch

from jepa_pipeline import distributed
from jepa_pipeline.checks import ranks
from jepa_pipeline.checks.ranks import RankReport, check_alike, check_clocks, check_gpus, check_shared_folder
from jepa_pipeline.training.processes import RankInfo, process_group

LIKE = {"torch": "2.13.0", "code": "abc", "data": "123"}


def reports(count=4, **changes):
    """Two ranks a machine; changes: of rank 2."""
    return [
        RankReport(f"node{number // 2 + 1}", LIKE | (changes if number == 2 else {}), "X100", f"id{number % 2}")
        for number in range(count)
    ]


def test_ranks_that_are_alike_are_fine():
    result = check_alike(reports())
    assert result.level == "ok" and "4 ranks on 2 machines (node1, node2) have the same torch, code, data" in result.text


@pytest.mark.parametrize("name", LIKE)
def test_a_rank_that_differs_is_named_with_its_value(name):
    result = check_alike(reports(**{name: "other"}))
    assert result.level == "fail" and result.cure
    assert f"{name}: {LIKE[name]} on most, other on rank 2 (node2)" in result.text


def test_each_rank_has_a_gpu_of_its_own_and_all_are_of_a_kind():
    def level(changed):
        (result,) = check_gpus(changed, "cuda")
        return result

    same = reports()
    assert level(same).level == "ok"
    shared = level([*same[:3], same[3]._replace(gpu_id="id0")])
    assert shared.level == "fail" and "rank 2 (node2), rank 3 (node2)" in shared.text
    assert level([*same[:3], same[3]._replace(gpu="Y200")]).level == "warn"
    assert not list(check_gpus(same, "cpu"))


def test_a_clock_that_is_off_is_named(monkeypatch):
    monkeypatch.setattr(ranks, "all_gather_object", lambda _: [100.0, 100.0, 107.0, 100.0])
    result = check_clocks(reports())
    assert result.level == "warn" and "rank 2 (node2) is +7.0 s off" in result.text


def pretend(monkeypatch, change):
    """Four ranks of which this process is the first; what the others bring is what it brings, changed."""
    calls = []

    def all_gather_object(value):
        calls.append(value)
        return change(len(calls), [value] * 4)

    monkeypatch.setattr(ranks, "all_gather_object", all_gather_object)


def test_a_folder_that_a_rank_cannot_write_or_does_not_share_is_a_failure(monkeypatch, tmp_path):
    pretend(monkeypatch, lambda call, values: [*values[:3], "Permission denied"] if call == 2 else values)
    monkeypatch.setattr(ranks, "VISIBLE_WITHIN_S", 0.0)
    result = check_shared_folder(tmp_path / "runs/new", reports())
    assert result.level == "fail" and "rank 3 (node2): Permission denied" in result.text
    assert not (tmp_path / "runs").exists()
    pretend(monkeypatch, lambda call, values: [[], [], [0, 1], [0, 1]] if call == 3 else values)
    result = check_shared_folder(tmp_path / "runs/new", reports())
    assert result.level == "fail" and "rank 2 (node2), rank 3 (node2) do not see" in result.text
    assert "such as rank 0 (node1)" in result.text and "all nodes mount" in result.cure


def test_a_slow_rank_is_named(monkeypatch):
    pretend(monkeypatch, lambda call, values: [1.0, 1.0, 0.5, 1.1])
    result = ranks.check_compute(reports(), "cpu")
    assert result.level == "warn" and "0.5 on rank 2 (node2)" in result.text
    monkeypatch.setattr(ranks, "world_size", lambda: 4)
    pretend(monkeypatch, lambda call, values: [1e9, 1e9, 0.2e9, 1e9])
    assert "slowest rank 2 (node2) with 200 MB/s" in ranks.check_bandwidth(reports(), "cpu").text


def process(number, port, config, code, folder):
    try:
        torch.set_num_threads(1)
        with process_group(RankInfo(number, 2, number, 2, "127.0.0.1", port, "torchrun"), "cpu"):
            found = ranks.check_ranks(config, config.folder, code if number else "other", "cpu")
            torch.save([tuple(result) for result in found], folder / f"rank{number}.pt")
    except BaseException:
        (folder / f"rank{number}.txt").write_text(traceback.format_exc())
        raise


def test_two_processes_compare_themselves(tiny, tmp_path):
    from jepa_pipeline.training.processes import free_port

    config, port = tiny(), free_port()
    context = multiprocessing.get_context("fork")
    started = [context.Process(target=process, args=(number, port, config, "code", tmp_path)) for number in range(2)]
    for one in started:
        one.start()
    for one in started:
        one.join(60)
        one.kill()
    assert not (complaints := "".join(path.read_text() for path in tmp_path.glob("rank*.txt"))), complaints
    first, second = (torch.load(tmp_path / f"rank{number}.pt", weights_only=True) for number in range(2))
    levels = {name: level for name, level, _, _ in first}
    assert levels.pop("ranks") == "fail" and "code: " in first[0][2]
    assert levels.pop("compute") in ("ok", "warn")
    assert levels == {"clocks": "ok", "shared folder": "ok", "bandwidth": "ok"}
    assert second == first and not config.folder.exists()
    assert distributed.world_size() == 1
