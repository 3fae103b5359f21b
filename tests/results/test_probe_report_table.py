"""A printed report fits a terminal and claims no more than was measured."""

from pathlib import Path

import pytest

from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.results.probe_report import ProbeReport, ProbeRow
from jepa_pipeline.results.probe_table import attribute_to_time, best_knn_rows, print_report


def accuracy(name, protocol, right, total=1000, **settings):
    rest = {"ci95": (right / total - 0.001, right / total), "n_test": total, "seed": 0, "seconds": 1234.5}
    return ProbeRow(encoder=name, protocol=protocol, top1=right / total, settings=settings, **rest)


def test_sentences_attribute_accuracy_to_time_with_intervals():
    rows = [accuracy(name, "linear", right) for name, right in (("target", 912), ("random_init", 300), ("pixels", 200))]
    assert attribute_to_time(rows) == []
    rows += [accuracy("frames_shuffled", "linear", 528), accuracy("frames_apart", "linear", 410)]
    assert attribute_to_time([*rows, accuracy("target", "knn", 500), accuracy("target", "attentive", 950)]) == [
        "of target's linear 91.2, 38.4 points (95 %: 34.8 to 41.9) are due to the order of frames (52.8 with frames shuffled)",
        "of target's linear 91.2, 50.2 points (95 %: 46.6 to 53.6) are due to more than single frames (41.0 with frames apart)",
    ]


@pytest.mark.parametrize(("whole", "shuffled"), [(56, 50), (50, 50), (50, 53)])
def test_noise_is_not_due_to_the_order_of_frames(whole, shuffled):
    rows = [accuracy("online", "attentive", whole, 100), accuracy("frames_shuffled", "attentive", shuffled, 100)]
    (sentence,) = attribute_to_time(rows)
    assert sentence.startswith(
        f"no difference beyond chance between online's attentive {whole:.1f} and {shuffled:.1f} with frames shuffled (95 %: -"
    )


def neighbors(name, kind, *counts, **size):
    return [accuracy(name, "knn", right, features=kind, k=k, **size) for k, right in zip((5, 10, 20), counts, strict=True)]


def test_only_the_best_k_of_each_kind_is_printed():
    linear = accuracy("target", "linear", 7, features="last", weight_decay=0.1)
    rows = [linear, *neighbors("target", "last", 5, 6, 6), *neighbors("target", "last4", 3, 1, 4)]
    rows += neighbors("random_init", "last", 0, 0, 0)
    assert best_knn_rows(rows) == [linear, rows[2], rows[6], rows[7]]


def test_the_table_fits_80_columns_with_every_name_whole(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("target", "random_init", "frames_shuffled", "frames_apart")
    rows = [accuracy(name, "linear", 1000, features="last4", weight_decay=1e-6) for name in names]
    rows += [row for name in names for row in neighbors(name, "last", 912, 1, 2)]
    rows += [accuracy(name, "attentive", 900, form="vjepa2", lr=3e-4, weight_decay=0.01) for name in names]
    rows += [accuracy("pixels", "linear", 900, features="pixels", weight_decay=1e-6, frames=4, side=16)]
    made = {"data": "x", "data_hash": {}, "config_hash": "c", "weights_hash": "w", "step": 1, "version": "0", "selection": {}}
    print_report(ProbeReport(probe=ProbeConfig.model_validate({}), rows=rows, **made), "videos", Path("x.json"))
    lines = capsys.readouterr().out.splitlines()
    table = lines[: lines.index(next(line for line in lines if line.startswith(("of ", "no difference"))))]
    assert max(map(len, table)) <= 80 and "…" not in "".join(table) and "RankMe" not in "".join(table)
    assert all(sum(line.startswith(f"{name} ") for line in table) == 3 for name in names)
    assert sum(line.startswith(" ") and line.strip().startswith("decay") for line in table) == 4  # attentive ones alone take two
    assert any(line.startswith("pixels") and "4x16x16, decay 1e-06" in line for line in table)
    assert len([line for line in table if line.strip()]) == 1 + 2 + 13 + 4
