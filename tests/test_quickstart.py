"""The promise of the quickstart: all steps run, and what it learns beats its untrained twin and raw pixels."""

import pytest

from jepa_pipeline.commands.quickstart import describe_rows, quickstart
from jepa_pipeline.probes.pooled_probes import make_row

BASELINES = "random_init", "pixels"


def accuracies(rows):
    return {(row.encoder, row.protocol): row.top1 for row in rows}


def test_the_whole_path_runs_and_runs_again(tmp_path, capsys):
    rows = quickstart(tmp_path, total_samples=640, images=200)
    assert {*accuracies(rows)} == {(name, protocol) for name in ("online", *BASELINES) for protocol in ("linear", "knn")}
    assert (tmp_path / "runs/quickstart/export/timm/model.safetensors").exists()
    end = capsys.readouterr().out.partition("\nThe table: of 40 test images")[2]
    for picture in ("images", "views.png"):
        assert (tmp_path / picture).exists() and str(tmp_path / picture) in end
    commands = [line.split()[:3] for line in end.splitlines() if line.startswith("  jepa ")]
    assert commands == [
        ["jepa", "shards", "build"],
        ["jepa", "pretrain", f"{tmp_path / 'runs/quickstart/config.yaml'}"],
        ["jepa", "probe", "runs/mine"],
    ]
    again = quickstart(tmp_path, total_samples=640, images=200)
    assert accuracies(again) == accuracies(rows)


@pytest.mark.parametrize(("neighbors", "conclusion"), [(45, "taught it"), (26, "too short")])
def test_the_end_says_success_only_if_both_probes_beat_both_baselines(neighbors, conclusion):
    correct = {"online": (60, neighbors), "random_init": (20, 17), "pixels": (11, 26)}
    rows = [
        make_row(name, protocol, {}, count, 100, 0, 0.0)
        for name, counts in correct.items()
        for protocol, count in zip(("linear", "knn"), counts, strict=True)
    ]
    assert conclusion in describe_rows(rows)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_quickstart_beats_its_untrained_twin_and_pixels(seed, tmp_path):
    found = accuracies(quickstart(tmp_path, seed=seed))
    for protocol in ("linear", "knn"):
        assert found["online", protocol] > max(found[name, protocol] for name in BASELINES) + 0.1
