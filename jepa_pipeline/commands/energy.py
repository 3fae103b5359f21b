"""`jepa energy`: how well a JEPA predicts, where, how far ahead, and whether the truth has lower energy than alternatives."""

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from jepa_pipeline.batch import Masks
from jepa_pipeline.checks.given_paths import check_energy
from jepa_pipeline.config.data import SourceConfig
from jepa_pipeline.config.encoder_card import holds_encoder
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.saved_method import read_saved_method
from jepa_pipeline.console import note
from jepa_pipeline.data.custom import require_shards
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.manifest import MANIFEST, read_manifest
from jepa_pipeline.data.remote import is_remote, join_url
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.files import atomic_path, atomic_write, sweep
from jepa_pipeline.masks.build import build_future_samplers, build_samplers_by_level
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.weights import check_weights
from jepa_pipeline.probes.energies import EnergyModel, Evaluation, Measurements, SampleMasks, measure_clips, measure_images
from jepa_pipeline.probes.energy_rows import error_rows, position_sentences, separation_rows
from jepa_pipeline.probes.error_maps import ColorRange, color_ranges, plot_error_maps, save_animation
from jepa_pipeline.probes.evaluate import build_eval_loader
from jepa_pipeline.probes.features import Preprocessing, compute_device
from jepa_pipeline.probes.labeled_data import explain_damage, parent_location, set_name
from jepa_pipeline.probes.negatives import TimeSplit, split_time
from jepa_pipeline.probes.rollout_error import comparison_sentences, plot_horizons
from jepa_pipeline.redaction import redact
from jepa_pipeline.results.energy_report import EnergyReport, energy_key, print_energy_report
from jepa_pipeline.training.trained_method import load_imported, load_trained
from jepa_pipeline.version import __version__

MIN_BATCH = 3
"""Samples per batch: with three or more, samples can be split evenly so that no batch has a single one."""
DEFAULT_FPS = 8.0
"""Frames per second of animations of clips whose own rate is unknown."""

Samplers = list[list[MaskSampler]]


class Subject(NamedTuple):
    """A JEPA to be evaluated, before its networks are loaded.

    Attributes:
        method: its configuration.
        trained_on: its first training data; None: it was imported, so they are unknown.
        workers: data workers.
        config_hash: hash of its run's configuration.
    """

    method: MethodConfig
    trained_on: SourceConfig | None
    workers: int
    config_hash: str


class EvalSamples(NamedTuple):
    """The samples to evaluate: their data set, its name, and their numbers in order."""

    shards: Shards
    name: str
    numbers: list[int]


def energy(
    run: str | Path,
    data: str | Path | None = None,
    past: float = 0.5,
    samples: int = 512,
    pictures: int = 8,
    out: Path | None = None,
    seed: int = 0,
) -> EnergyReport:
    """Evaluate a trained JEPA as an energy, on samples without labels; print and write the report, with pictures.

    For clips, the future is predicted from the past, and its energy compared with those of other futures, horizon by horizon. For
    images, the same is done with the patches that the method's own masks hide.

    Args:
        run: a run folder, or the folder of an encoder that was imported with its predictor.
        data: a folder or URL of shards, or with shards in test/; default: test/ next to the run's training shards, or these if
            there is none.
        past: share of a clip that is context, rounded to whole time steps of the highest level with two or more.
        samples: number of samples at most, chosen by the seed.
        pictures: number of samples whose error maps are drawn.
        out: folder of the report; default: RUN/energy. File names depend on the settings, so that repeating an evaluation replaces
            its files and another one does not.
        seed: of the samples, masks and shuffled futures.

    Raises:
        UserError: the run has no energy or no checkpoint, the data is not for it, masks hide nothing, or `out` cannot be written.
    """
    folder = Path(run)
    check_energy(folder, None if data is None else str(data), past)
    subject, out = open_subject(folder), out or folder / "energy"
    check_place(out / "report.json")
    method = subject.method
    if not method.mask_sets:
        raise UserError(f"{folder} was trained by {method.name}, which predicts nothing that is hidden: name a run of a JEPA")
    model, checkpoint_hash, step = load_subject(folder, subject)
    assert isinstance(model, EnergyModel)
    chosen, card = choose_samples(subject, None if data is None else str(data), samples, seed), check_weights(folder)
    encoders, fps = cast(tuple[EncoderConfig, ...], method.encoders), card.clip.fps if card.clip else None
    split = split_time(past, encoders) if encoders[0].modality.has_time else None
    if split and abs(split.share - past) > 1e-6:
        frames = f"{split.frames} of {encoders[0].frames} frames are past"
        note(f"{frames}, the nearest to {past:g} that lies between steps of every level")
    sample_masks = combine_samplers(future_samplers(method, split) if split else training_samplers(method))
    distances = method.distances[: len(split.steps) if split else None]
    preprocessing = Preprocessing(card.mean, card.std)
    evaluation = Evaluation(model.to(compute_device()), sample_masks, preprocessing, distances, seed, pictures)
    loader = build_eval_loader(chosen.shards, card, ProbeConfig.model_validate({"workers": subject.workers}), 1, 1, 0)
    batches = split_evenly(chosen.numbers, loader.batch_size)
    with explain_damage(chosen.shards.manifest.kind):
        loaded = loader.load(batches)
        measured = measure_clips(evaluation, loaded, batches, split) if split else measure_images(evaluation, loaded, batches)
    notes = [split.note] if split and split.note else []
    report = EnergyReport(
        data=chosen.name,
        location=redact(chosen.shards.location),
        data_hash=chosen.shards.manifest.hash(),
        config_hash=subject.config_hash,
        checkpoint_hash=checkpoint_hash,
        step=step,
        version=__version__,
        device=compute_device().type,
        seed=seed,
        samples=len(chosen.numbers),
        past_frames=split.frames if split else None,
        separations=separation_rows(measured, fps),
        errors=error_rows(measured, fps),
        flattered=split is not None and any(encoder.attention == "full" for encoder in encoders[: len(split.steps)]),
        said=[*comparison_sentences(measured.rollouts), *position_sentences(measured), *notes],
        pictures=[],
        colors=color_ranges(measured.maps) if measured.maps else [],
    )
    path = out / f"{chosen.name}-{step:08d}-{energy_key(report, len(measured.maps))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path.parent)
    files = save_pictures(measured, path, report.colors, split.frames if split else 0, fps or DEFAULT_FPS)
    report = report.model_copy(update={"pictures": files})
    atomic_write(path, report.model_dump_json(indent=1) + "\n")
    print_energy_report(report, path)
    return report


def open_subject(folder: Path) -> Subject:
    """Return the JEPA of a run, or the one that was imported with its predictor.

    Raises:
        UserError: there is none.
    """
    if holds_encoder(folder):
        return Subject(read_saved_method(folder).method, None, ProbeConfig.model_validate({}).workers, "")
    config = load_config(folder)
    return Subject(config.method, config.data.train[0], config.data.workers, config.hash())


def load_subject(folder: Path, subject: Subject) -> tuple[Method, str, int]:
    """Return the networks of a JEPA, the hash of the files that they are from, and the steps of their training."""
    if subject.trained_on is None:
        model, saved = load_imported(folder)
        checkpoint_hash, step = saved.sha256, 0
    else:
        model, about = load_trained(folder, note)
        checkpoint_hash, step = about.sha256, about.step
    return model, checkpoint_hash, step


def choose_samples(subject: Subject, data: str | None, count: int, seed: int) -> EvalSamples:
    """Return samples in random order, because neighbors in a data set are often alike.

    Raises:
        UserError: there are fewer than two, or the encoder cannot read them.
    """
    modality, given = subject.method.encoder.modality, data
    if data is None and subject.trained_on is not None:
        given = require_shards(subject.trained_on)
    if given is None:
        raise UserError("the data that an imported JEPA was trained on is not known: name shards with --data")
    folder = parent_location(given) if data is None else given
    test = join_url(folder, "test") if is_remote(folder) else str(Path(folder) / "test")
    if holds_shards(test):
        location, name = test, set_name(folder)
    else:
        location = given
        name = set_name(location)
    shards = Shards(location)
    if shards.manifest.kind == "videos" and not modality.has_time:
        raise UserError(f"{redact(location)} holds videos, but the run has an image encoder: name images with --data")
    if shards.manifest.kind == "images" and modality.has_time:
        raise UserError(f"{redact(location)} holds images, which have no future: name videos with --data")
    if data is None:
        why = "next to the shards it was trained on" if location == test else "which it was trained on, because there is no test/"
        note(f"evaluating on {redact(location)}, {why} (change with --data)")
    if (available := min(count, shards.manifest.samples)) < 2:
        raise UserError(f"{available} sample of {redact(location)} has no other one to be compared with: give 2 or more")
    order = keyed_generator(seed, Stream.SHUFFLE, 0, 0).permutation(shards.manifest.samples)
    return EvalSamples(shards, name, order[:count].tolist())


def holds_shards(location: str) -> bool:
    if not is_remote(location):
        return (Path(location) / MANIFEST).is_file()
    try:
        read_manifest(location)
    except UserError:
        return False
    return True


def future_samplers(method: MethodConfig, split: TimeSplit) -> Samplers:
    """Return for each level the mask that hides the future, once per mask set, because each has its own mask token.

    Levels without past steps are computed all the same, with their training masks.
    """
    pairs = zip(build_future_samplers(method, split.share), method.level_masks, strict=True)
    samplers: Samplers = [[sampler for sampler in level for _ in mask_sets] for level, mask_sets in pairs]
    return [*samplers[: len(split.steps)], *training_samplers(method)[len(split.steps) :]]


def training_samplers(method: MethodConfig) -> Samplers:
    """Return the mask samplers of each level, as in training."""
    return [[*level] for level in build_samplers_by_level(method)]


def combine_samplers(samplers: Samplers) -> SampleMasks:
    """Return a function that samples the masks of all levels."""

    def sample_masks(generators: list[np.random.Generator], number: int) -> list[list[Masks]]:
        return [[sampler(generators, number) for sampler in level] for level in samplers]

    return sample_masks


def split_evenly(numbers: list[int], batch_size: int) -> list[list[int]]:
    """Return batches of about `batch_size`, none of which has a single sample."""
    return [part.tolist() for part in np.array_split(numbers, ceil(len(numbers) / max(MIN_BATCH, batch_size)))]


def save_pictures(measured: Measurements, path: Path, colors: list[ColorRange], past: int, fps: float) -> list[str]:
    """Draw the errors by horizon and the error maps next to the report; return the names of the files."""
    title, files = path.stem, list[str]()
    if measured.rollouts:
        figure = plot_horizons(measured.rollouts, title)
        files.append(save_picture(path.with_name(f"{title}-horizons.png"), lambda to: figure.savefig(to, format="png", dpi=110)))
        for number, error_map in enumerate(measured.maps):
            name = path.with_name(f"{title}-{number:02d}.gif")
            files.append(save_picture(name, lambda to, error_map=error_map: save_animation(to, error_map, colors, past, fps)))
    elif measured.maps:
        figure = plot_error_maps(measured.maps, colors, title)
        files.append(save_picture(path.with_name(f"{title}-heat.png"), lambda to: figure.savefig(to, format="png", dpi=110)))
    return files


def save_picture(path: Path, write: Callable[[Path], object]) -> str:
    """Write a file in one rename, and return its name.

    Raises:
        UserError: the disk is full, or may not be written.
    """
    try:
        with atomic_path(path) as temporary:
            write(temporary)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): free some space, or set another --out") from None
    return path.name
