"""`jepa import`: published weights as an encoder folder, which the other commands take like a run's."""

import re
import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

from jepa_pipeline.config.encoder_card import EncoderCard
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.networks import BackboneConfig
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.config.saved_method import METHOD, METHOD_WEIGHTS, SavedMethod
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.unfinished import check_new, new_folder
from jepa_pipeline.data.worker_pool import track_progress
from jepa_pipeline.files import sha256_of
from jepa_pipeline.interop import hub
from jepa_pipeline.interop.families import choose_family
from jepa_pipeline.interop.importing import convert, describe
from jepa_pipeline.interop.predictors import ImportedMethod, convert_method
from jepa_pipeline.interop.published import Imported
from jepa_pipeline.interop.reading import SUFFIXES, read_weights
from jepa_pipeline.models.weights import save_tensors, save_weights

LONG = 64
"""Blocks of 4 MB from which on a progress bar is shown."""


def import_weights(
    source: str | Path,
    family: str | None = None,
    which: str | None = None,
    out: Path | None = None,
    license: str | None = None,
    given: ImportSettings | None = None,
    predictor: bool = False,
) -> Path:
    """Write published weights as an encoder folder; print what was taken, and what was left out; return the folder.

    Args:
        source: a file or folder, or a name on a hub: hf:OWNER/NAME, with @REVISION if not the newest, or timm:NAME.
        family: whose layout the weights have, as in `interop/families.py`; default: recognized from the weights.
        which: name of the network in a checkpoint of several; default: the target encoder, or the only one.
        out: a new or empty folder; default: imported/NAME.
        license: of the weights; default: as their hub says, else unknown.
        given: what the source does not say.
        predictor: write the context encoder and the predictor of an official checkpoint too, for `jepa energy`.

    Raises:
        UserError: there are no weights, a file is damaged or would run code, no layout fits them one to one, or `out` is not empty.
    """
    source, given = str(source), given or ImportSettings()
    if given.predictor_heads and not predictor:
        raise UserError(f"predictor_heads={given.predictor_heads} is given, but no predictor is imported: add --predictor")
    downloaded = hub.download(source) if hub.is_hub_name(source) else None
    path = downloaded.folder if downloaded else Path(source)
    name = source if downloaded else path.resolve().name
    out = out or Path("imported") / folder_name(name)
    check_new(out)
    check_place(out)

    def progress(blocks: Iterator[bytes], count: int) -> Iterable[bytes]:
        return track_progress(blocks, f"reading {name}", count) if count > LONG else blocks

    weights = read_weights(path, which, given, progress)
    chosen, published = choose_family(weights.published, family)
    imported = convert(chosen, published)
    method = convert_method(chosen, published, imported) if predictor else None
    if method is not None:
        imported = imported._replace(notes=(*imported.notes, *method.notes))
    license = license or (downloaded and downloaded.license) or "unknown"
    revision = downloaded.revision if downloaded else None
    card = describe(folder_name(name), chosen, name.partition("@")[0], revision, weights, imported, license)
    with new_folder(out) as partial:
        save_weights(partial, imported.weights, card)
        if method is not None:
            save_method(partial, method)
    left_out = [] if predictor else [*published.predictor]
    for sentence in [*summary(out, card, imported, left_out), *next_commands(out, card, predictor)]:
        print_plain(None, sentence)
    return out


def folder_name(name: str) -> str:
    """Return the name of a source without its suffix, or without its owner and revision on a hub."""
    name = name.partition("@")[0].rpartition(":")[2].rpartition("/")[2]
    suffix = next((suffix for suffix in SUFFIXES if name.endswith(suffix)), "")
    return re.sub(r"[^\w.-]", "-", name.removesuffix(suffix)) or "encoder"


def save_method(folder: Path, method: ImportedMethod) -> None:
    """Write the networks of a method that are not its target encoder, and its card with their hash."""
    save_tensors(folder / METHOD_WEIGHTS, method.weights)
    saved = SavedMethod(method=method.config, sha256=sha256_of(folder / METHOD_WEIGHTS))
    (folder / METHOD).write_text(saved.model_dump_json(indent=2) + "\n")


def summary(out: Path, card: EncoderCard, imported: Imported, left_out: list[str]) -> list[str]:
    """Return what was written, what was left out and what to know of it, in sentences."""
    source = card.source
    assert source is not None
    parameters = sum(tensor.numel() for tensor in imported.weights.values() if tensor.is_floating_point())
    what = f"{source.network} of {source.path} ({source.family}, SHA-256 {source.sha256[:12]}..., {source.dtype})"
    said = [f"imported to {out}: {what}: {imported.config.describe()}, {parameters:,} parameters"]
    if imported.dropped:
        said.append(f"dropped (not part of the encoder): {', '.join(imported.dropped)}")
    if left_out:
        said.append(f"left out: the predictor ({len(left_out)} tensors); import it with --predictor")
    said += [f"note: {note}" for note in source.notes]
    if source.license == "unknown":
        said.append("license unknown: set it with --license")
    return said


def next_commands(out: Path, card: EncoderCard, predictor: bool) -> list[str]:
    """Return commands that take the encoder."""
    folder = shlex.quote(str(out))
    encoder = card.encoder
    images = not encoder.modality.has_time
    for_timm = images and encoder.norm_eps is None and (isinstance(encoder, BackboneConfig) or not encoder.rotary)
    to = "timm" if for_timm else "jepa"
    energy = f", jepa energy {folder} --data FOLDER_OF_SHARDS" if predictor else ""
    return [f"next: jepa probe {folder} --data FOLDER_OF_SHARDS{energy}, or jepa export {folder} --to {to}"]
