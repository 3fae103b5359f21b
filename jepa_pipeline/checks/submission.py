"""What is looked at before a run is queued, so that a mistake costs seconds and not a place in the queue."""

import sys
from collections.abc import Sequence
from pathlib import Path

from jepa_pipeline.checks.finding import Finding, as_finding
from jepa_pipeline.checks.storage import check_space, checkpoints_kept, free_bytes, scratch
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_overrides
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.manifest import load_manifest
from jepa_pipeline.data.media import check_kind, check_motion
from jepa_pipeline.data.remote import is_remote, without_secrets

HEADS, ANY_BACKBONE = 10e9, 50e9
"""Bytes with which all of a run's predictors and heads do, and those with which any network of timm does."""


def check_submission(config: RunConfig, ranks: int) -> None:
    """See whether a run of so many processes can begin; what is merely odd is printed.

    Raises:
        UserError: it cannot; every reason is a line.
    """
    mistakes = [*share_batch(config, ranks), *read_data(config)]
    for finding in look_at_folder(config, ranks):
        sentence = f"{finding.text}: {finding.cure}"
        if finding.level == "fail":
            mistakes.append(sentence)
        elif finding.level == "warn":
            print(f"warning: {sentence}", file=sys.stderr)
    if mistakes:
        raise UserError("\n".join(mistakes))


def check_probe(settings: Sequence[str], data: str | None, test: str | None, made_later: bool) -> None:
    """See whether a probe has settings and data; those at a URL, and those it finds by itself, it looks at itself.

    made_later: what is not there may come from a job before it.

    Raises:
        UserError: it has not.
    """
    load_overrides(ProbeConfig, settings)
    given = [place for place in (data, test) if place is not None]
    places = [f"{data}/train", f"{data}/test"] if test is None and data is not None else given
    for place in places:
        if not is_remote(place) and not (made_later and not Path(place).exists()):
            load_manifest(place)


def share_batch(config: RunConfig, ranks: int) -> list[str]:
    """Why the processes cannot share a batch, if they cannot."""
    try:
        config.check_processes(ranks)
    except ValueError as error:
        return [f"{error}: change optim.batch_size_global, or the number of devices"]
    return []


def read_data(config: RunConfig) -> list[str]:
    """What is wrong with the data, as far as manifests tell."""
    mistakes, kinds = [], []
    for source in config.data.train:
        try:
            kinds.append(load_manifest(source.path).kind)
            check_kind(source.path, kinds[-1], config.method)
        except UserError as error:
            mistakes.append(str(error))
        except OSError as error:
            mistakes.append(f"{without_secrets(source.path)} cannot be read ({error.strerror}): see to its rights")
    if not mistakes:
        try:
            check_motion(kinds, config.method)
        except UserError as error:
            mistakes.append(str(error))
    return mistakes


def look_at_folder(config: RunConfig, ranks: int) -> list[Finding]:
    """Whether the run folder can be made, and has room for checkpoints."""
    try:
        with scratch(config.folder):
            pass
    except OSError as error:
        text = f"the run folder {config.folder} cannot be written ({error.strerror})"
        return [Finding("run folder", "fail", text, "choose another with output=FOLDER, or see to its rights")]
    if free_bytes(config.folder) > checkpoints_kept(config) * plenty(config.method):
        return []
    from jepa_pipeline.checks.size import checkpoint_bytes

    try:
        return [check_space(config, checkpoint_bytes(config, ranks))]
    except UserError as error:
        return [as_finding("method", error)]


def plenty(method: MethodConfig) -> float:
    """Bytes for a checkpoint with which nothing need be counted, which takes torch and timm seconds to be read: twice those of the
    encoder, its target and two moments; of a stack those of every level.
    """
    if method.encoder.timm:
        return ANY_BACKBONE
    sizes = (encoder.size for encoder in method.encoders)
    return HEADS + sum(2 * 16 * depth * width**2 * (4 + 2 * mlp_ratio) for width, depth, _, mlp_ratio in sizes)
