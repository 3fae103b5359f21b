"""What pooled features are worth: the numbers of linear and k-NN probes, and the features' ranks."""

import time
from collections.abc import Sequence

import torch

from jepa_pipeline.config.probe import ProbeConfig, Protocol
from jepa_pipeline.probes.collapse_metrics import rankme
from jepa_pipeline.probes.confidence_interval import wilson_interval
from jepa_pipeline.probes.feature_extractors import Kinds
from jepa_pipeline.probes.features import PIXELS, PIXELS_FRAMES, Features
from jepa_pipeline.probes.knn import knn_probe
from jepa_pipeline.probes.linear import Trial, linear_probe
from jepa_pipeline.probes.report import EncoderName, Row, Settings

RANKED = 10_000
"""Training samples whose features' rank is measured, or all if there are fewer; the singular values wait for no more."""


def judge(
    names: Sequence[EncoderName], train: Features, test: Features, classes: int, frames: int | None, config: ProbeConfig
) -> tuple[list[Row], dict[str, list[Trial]]]:
    """Every number of pooled features, and by encoder the heads its linear one was chosen from. frames: of a clip; None: images."""
    rows, selection = [], {}
    clips: Settings = {} if frames is None else {"segments": config.segments}
    for name in names:
        kinds, unseen = wanted(train.encoders[name], config), test.encoders[name]
        more = clips | (pixels_size(kinds[PIXELS].shape[1], frames) if name == PIXELS else {})
        if "linear" in config.protocols:
            started = time.perf_counter()
            linear = linear_probe(kinds, train.labels, unseen, test.labels, classes, config)
            selection[name] = linear.trials
            settings = linear.chosen.model_dump() | more
            rows.append(row(name, "linear", settings, linear.correct, len(test.labels), config.seed, started))
        for kind, vectors in kinds.items() if "knn" in config.protocols else ():
            started = time.perf_counter()
            counts = knn_probe(vectors, train.labels, unseen[kind], test.labels, classes, config.k)
            for k, correct in counts.items():
                rows.append(row(name, "knn", {"features": kind, "k": k} | more, correct, len(test.labels), config.seed, started))
    return rows, selection


def pixels_size(width: int, frames: int | None) -> Settings:
    """Of the images, or clips of so many frames, that were shrunk to vectors of this width."""
    if frames is None:
        return {"side": round((width / 3) ** 0.5)}
    frames = min(PIXELS_FRAMES, frames)
    return {"frames": frames, "side": round((width / 3 / frames) ** 0.5)}


def row(encoder: EncoderName, protocol: Protocol, settings: Settings, correct: int, total: int, seed: int, started: float) -> Row:
    return Row(
        encoder=encoder,
        protocol=protocol,
        settings=settings,
        top1=correct / total,
        ci95=wilson_interval(correct, total),
        n_test=total,
        seed=seed,
        seconds=round(time.perf_counter() - started, 3),
    )


def ranks(names: Sequence[EncoderName], train: Features) -> dict[str, float]:
    """RankMe of each encoder's pooled features and of the pixels, on samples spread evenly over the training set."""
    count = min(RANKED, len(train.labels))
    places = torch.arange(count) * len(train.labels) // count
    return {name: float(rankme(train.encoders[name][PIXELS if name == PIXELS else "last"][places])) for name in names}


def wanted(kinds: Kinds, config: ProbeConfig) -> Kinds:
    return {kind: vectors for kind, vectors in kinds.items() if kind in (*config.features, PIXELS)}
