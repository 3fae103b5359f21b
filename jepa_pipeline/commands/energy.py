"""`jepa energy`: how well a run predicts, where, how far ahead, and whether it finds less wrong with the truth than with else."""

from collections.abc import Callable
from math import ceil
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from jepa_pipeline.batch import Masks
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.dataset import MaskSampler
from jepa_pipeline.data.manifest import MANIFEST, read_manifest
from jepa_pipeline.data.remote import is_remote, join, without_secrets
from jepa_pipeline.data.rng import Stream, keyed_generator
from jepa_pipeline.data.shards import Shards
from jepa_pipeline.files import atomic_path, atomic_write
from jepa_pipeline.masks.build import build_future_samplers, build_samplers_by_level
from jepa_pipeline.models.weights import EncoderCard, read_card
from jepa_pipeline.probes.energies import Asked, Draw, Measured, Subject, measure_clips, measure_images
from jepa_pipeline.probes.energy_report import EnergyReport, energy_key, error_rows, place_sentences, separation_rows, show
from jepa_pipeline.probes.error_maps import Span, animate, draw_sheet, spans
from jepa_pipeline.probes.evaluate import feed
from jepa_pipeline.probes.features import Lens, compute_device
from jepa_pipeline.probes.negatives import Cut, cut_at
from jepa_pipeline.probes.rollout_error import draw_horizons, sentences
from jepa_pipeline.probes.sets import around, damage_has_a_cure, set_name
from jepa_pipeline.training.checkpoint import About
from jepa_pipeline.training.trained_method import load_trained
from jepa_pipeline.version import __version__

FEWEST = 3
"""Samples given to the networks at once: so many or more can be dealt evenly without one being left over."""
STILL_FPS = 8.0
"""Of animations of clips whose own rate is not known."""

Samplers = list[list[MaskSampler]]


class Samples(NamedTuple):
    """What is looked at. name: of the data set; chosen: numbers of samples, in the order in which they are seen."""

    shards: Shards
    name: str
    chosen: list[int]


def energy(
    run: str | Path,
    data: str | Path | None = None,
    past: float = 0.5,
    samples: int = 512,
    pictures: int = 8,
    out: Path | None = None,
    seed: int = 0,
) -> EnergyReport:
    """An energy-based look at a trained JEPA, on samples that need no labels.

    Clips: the future is predicted from the past, and its energy compared with those of other futures, horizon by horizon. Images:
    the same of what the method's own masks hide.

    Args:
        run: a run folder.
        data: a folder or URL of shards, or one with shards in test/; by default the test/ beside the run's training shards, or
            these where there is none.
        past: share of a clip that is seen, which is rounded to whole time steps of the highest level that has two or more.
        samples: how many are looked at, at most; drawn by the seed.
        pictures: how many of them are drawn with their errors.
        out: folder of the report; RUN/energy unless given. Its files are named by what was asked, so that asking the same again
            replaces the answer, and asking something else does not.
        seed: key of the samples, of masks and of shuffled futures.

    Raises:
        UserError: the run has no energy or no checkpoint, the data does not belong to it, or masks hide nothing of an image.
    """
    folder = Path(run)
    config = load_config(folder)
    method = config.method
    if not method.mask_sets:
        raise UserError(f"{folder} was trained by {method.name}, which predicts nothing that is hidden: name a run of a JEPA")
    if not 0 < past < 1:
        raise UserError(f"--past is {past:g}, but it is the share of a clip that is seen: give one between 0 and 1")
    asked, about = trained(folder)
    found, card = choose(config, None if data is None else str(data), samples, seed), read_card(folder)
    encoders = method.encoders
    cut = cut_at(past, encoders) if encoders[0].modality.has_time else None
    if cut and abs(cut.share - past) > 1e-6:
        say(f"{cut.frames} of {encoders[0].frames} frames are past, the nearest to {past:g} that lies between steps of every level")
    samplers = future(method, cut) if cut else training_samplers(method)
    asked_of = method.distances[: len(cut.steps) if cut else None]
    subject = Subject(asked, drawing(samplers), Lens(card.mean, card.std), asked_of, seed, pictures)
    stream = feed(found.shards, card, ProbeConfig.model_validate({"workers": config.data.workers}), 1, 1, 0)
    passes = deal(found.chosen, stream.samples_per_pass)
    with damage_has_a_cure(found.shards.manifest.kind):
        loader = stream.load(passes)
        measured = measure_clips(subject, loader, passes, cut) if cut else measure_images(subject, loader, passes)
    report = EnergyReport(
        data=found.name,
        location=without_secrets(found.shards.location),
        data_hash=found.shards.manifest.hash(),
        config_hash=config.hash(),
        checkpoint_hash=about.sha256,
        step=about.step,
        version=__version__,
        device=compute_device().type,
        seed=seed,
        samples=len(found.chosen),
        past_frames=cut.frames if cut else None,
        separations=separation_rows(measured, rate(card)),
        errors=error_rows(measured, rate(card)),
        flattered=cut is not None and any(encoder.attention == "full" for encoder in encoders[: len(cut.steps)]),
        said=[*sentences(measured.curves), *place_sentences(measured), *([cut.left_out] if cut and cut.left_out else [])],
        pictures=[],
        colors=spans(measured.shown) if measured.shown else [],
    )
    path = (out or folder / "energy") / f"{found.name}-{about.step:08d}-{energy_key(report, len(measured.shown))}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    report = report.model_copy(update={"pictures": draw(measured, path, report.colors, cut.frames if cut else 0, rate(card))})
    atomic_write(path, report.model_dump_json(indent=1) + "\n")
    show(report, path)
    return report


def trained(folder: Path) -> tuple[Asked, About]:
    """The networks of a run's newest whole checkpoint, frozen, on the device there is."""
    asked, about = load_trained(folder, say)
    assert isinstance(asked, Asked)
    return asked.to(compute_device()), about


def choose(config: RunConfig, data: str | None, count: int, seed: int) -> Samples:
    """The samples to look at, in random order, for neighbors in a data set are often alike.

    Raises:
        UserError: there are fewer than two, or none that the networks can see.
    """
    trained_on = config.data.train[0].path
    place = around(trained_on) if data is None else data
    test = join(place, "test") if is_remote(place) else str(Path(place) / "test")
    if holds_shards(test):
        location, name = test, set_name(place)
    else:
        location = trained_on if data is None else place
        name = set_name(location)
    shards = Shards(location)
    if shards.manifest.kind == "videos" and not clips(config):
        raise UserError(f"{without_secrets(location)} holds videos, but the run has an encoder of images: name images with --data")
    if shards.manifest.kind == "images" and clips(config):
        raise UserError(f"{without_secrets(location)} holds images, which have no future: name videos with --data")
    if data is None:
        why = "around the shards it was trained on" if location == test else "which it was trained on, for there is no test/ beside"
        say(f"looking at {without_secrets(location)}, {why} (--data names others)")
    if (most := min(count, shards.manifest.samples)) < 2:
        raise UserError(f"{most} sample of {without_secrets(location)} has no other one to be told from: give 2 or more")
    order = keyed_generator(seed, Stream.SHUFFLE, 0, 0).permutation(shards.manifest.samples)
    return Samples(shards, name, order[:count].tolist())


def holds_shards(location: str) -> bool:
    if not is_remote(location):
        return (Path(location) / MANIFEST).is_file()
    try:
        read_manifest(location)
    except UserError:
        return False
    return True


def clips(config: RunConfig) -> bool:
    return config.method.encoder.modality.has_time


def future(method: MethodConfig, cut: Cut) -> Samplers:
    """Return for each level the mask that hides the future, once per mask set, because each has its own mask token.

    Levels above the cut's are computed all the same, with their training masks.
    """
    pairs = zip(build_future_samplers(method, cut.share), method.level_masks, strict=True)
    samplers: Samplers = [[sampler for sampler in level for _ in mask_sets] for level, mask_sets in pairs]
    return [*samplers[: len(cut.steps)], *training_samplers(method)[len(cut.steps) :]]


def training_samplers(method: MethodConfig) -> Samplers:
    """Return the mask samplers of each level, as in training."""
    return [[*level] for level in build_samplers_by_level(method)]


def drawing(samplers: Samplers) -> Draw:
    def draw(generators: list[np.random.Generator], number: int) -> list[list[Masks]]:
        return [[sampler(generators, number) for sampler in level] for level in samplers]

    return draw


def deal(chosen: list[int], at_once: int) -> list[list[int]]:
    """Batches of about so many, of which none has one sample alone."""
    return [part.tolist() for part in np.array_split(chosen, ceil(len(chosen) / max(FEWEST, at_once)))]


def rate(card: EncoderCard) -> float | None:
    """Frames of a clip in a second, where they are taken by time."""
    return card.clip.fps if card.clip else None


def draw(measured: Measured, path: Path, colors: list[Span], past: int, fps: float | None) -> list[str]:
    """Draw the horizons and the heat maps beside the report; their names."""
    title, files = path.stem, list[str]()
    if measured.curves:
        figure = draw_horizons(measured.curves, title)
        files.append(whole(path.with_name(f"{title}-horizons.png"), lambda place: figure.savefig(place, format="png", dpi=110)))
        for number, shown in enumerate(measured.shown):
            name = path.with_name(f"{title}-{number:02d}.gif")
            files.append(whole(name, lambda place, shown=shown: animate(place, shown, colors, past, fps or STILL_FPS)))
    elif measured.shown:
        sheet = draw_sheet(measured.shown, colors, title)
        files.append(whole(path.with_name(f"{title}-heat.png"), lambda place: sheet.savefig(place, format="png", dpi=110)))
    return files


def whole(path: Path, write: Callable[[Path], object]) -> str:
    """Have a file written so that it is there in full or as it was; its name.

    Raises:
        UserError: there is no room for it, or no right to write it.
    """
    try:
        with atomic_path(path) as temporary:
            write(temporary)
    except OSError as error:
        raise UserError(f"{path} could not be written ({error.strerror}): make room, or name another folder with --out") from None
    return path.name


def say(text: str) -> None:
    Console().print(text, soft_wrap=True, markup=False, highlight=False)
