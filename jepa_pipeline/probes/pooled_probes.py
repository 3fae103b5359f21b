"""Linear and k-NN accuracies of pooled features, and the ranks of the features."""

import time
from collections.abc import Callable, Sequence

import torch

from jepa_pipeline.config.probe import ProbeConfig, Protocol
from jepa_pipeline.console import show_progress
from jepa_pipeline.probes.collapse_metrics import rankme
from jepa_pipeline.probes.feature_extractors import FeatureSet
from jepa_pipeline.probes.features import PIXELS, PIXELS_FRAMES, Features
from jepa_pipeline.probes.knn import knn_probe
from jepa_pipeline.probes.linear import count_heads, linear_probe
from jepa_pipeline.results.confidence_interval import wilson_interval
from jepa_pipeline.results.probe_report import EncoderName, LinearTrial, ProbeRow, Settings

RANKME_SAMPLES = 10_000
"""Training samples at most whose features' rank is measured."""


def probe_features(
    names: Sequence[EncoderName],
    train: Features,
    test: Features,
    classes: int,
    frames: int | None,
    channels: int,
    config: ProbeConfig,
) -> tuple[list[ProbeRow], dict[str, list[LinearTrial]]]:
    """Return the rows of all pooled features, and by encoder the linear heads that were tried.

    Args:
        names: of the encoders, with the pixels.
        train: features of the training set.
        test: features of the test set.
        classes: number of classes.
        frames: of a clip; None for images.
        channels: of the pixels.
        config: of the probe.
    """
    with show_progress("heads", sum(count_units(train.encoders[name], config) for name in names)) as advance:
        return fit_heads(names, train, test, classes, frames, channels, config, advance)


def count_units(features: FeatureSet, config: ProbeConfig) -> int:
    """Return how many linear heads and searches of neighbors the features of an encoder take."""
    kinds = len(select_kinds(features, config))
    linear = count_heads(kinds, config) if "linear" in config.protocols else 0
    return linear + (kinds if "knn" in config.protocols else 0)


def fit_heads(
    names: Sequence[EncoderName],
    train: Features,
    test: Features,
    classes: int,
    frames: int | None,
    channels: int,
    config: ProbeConfig,
    advance: Callable[[int], object],
) -> tuple[list[ProbeRow], dict[str, list[LinearTrial]]]:
    """Return the rows and the heads of probe_features; advance: is told of each head and search."""
    rows, selection = [], {}
    clips: Settings = {} if frames is None else {"segments": config.segments}
    for name in names:
        train_features, test_features = select_kinds(train.encoders[name], config), test.encoders[name]
        extra = clips | (pixels_shape(train_features[PIXELS].shape[1] // channels, frames) if name == PIXELS else {})
        if "linear" in config.protocols:
            started = time.perf_counter()
            result = linear_probe(train_features, train.labels, test_features, test.labels, classes, config, advance)
            selection[name] = result.trials
            settings = result.chosen.model_dump() | extra
            rows.append(make_row(name, "linear", settings, result.correct, len(test.labels), config.seed, started))
        for kind, vectors in train_features.items() if "knn" in config.protocols else ():
            started = time.perf_counter()
            counts = knn_probe(vectors, train.labels, test_features[kind], test.labels, classes, config.k)
            advance(1)
            for k, correct in counts.items():
                settings = {"features": kind, "k": k} | extra
                rows.append(make_row(name, "knn", settings, correct, len(test.labels), config.seed, started))
    return rows, selection


def pixels_shape(pixels: int, frames: int | None) -> Settings:
    """Return the side, and for clips the frames, of the images or clips that were shrunk to so many pixels."""
    if frames is None:
        return {"side": round(pixels**0.5)}
    frames = min(PIXELS_FRAMES, frames)
    return {"frames": frames, "side": round((pixels / frames) ** 0.5)}


def make_row(
    encoder: EncoderName, protocol: Protocol, settings: Settings, correct: int, total: int, seed: int, started: float
) -> ProbeRow:
    return ProbeRow(
        encoder=encoder,
        protocol=protocol,
        settings=settings,
        top1=correct / total,
        ci95=wilson_interval(correct, total),
        n_test=total,
        seed=seed,
        seconds=round(time.perf_counter() - started, 3),
    )


def measure_ranks(names: Sequence[EncoderName], train: Features) -> dict[str, float]:
    """Return RankMe of each encoder's pooled features and of the pixels, on evenly spaced training samples."""
    count = min(RANKME_SAMPLES, len(train.labels))
    rows = torch.arange(count) * len(train.labels) // count
    return {name: float(rankme(train.encoders[name][PIXELS if name == PIXELS else "last"][rows])) for name in names}


def select_kinds(features: FeatureSet, config: ProbeConfig) -> FeatureSet:
    return {kind: vectors for kind, vectors in features.items() if kind in (*config.features, PIXELS)}
