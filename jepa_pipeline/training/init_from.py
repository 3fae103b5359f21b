"""Initialization of a run (init_from): with the networks of another run, or with an encoder folder.

An encoder folder is that of a run, an export, or published weights that were imported.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from jepa_pipeline.config.encoder_card import CARD, WEIGHTS, EncoderCard
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.init_from import find_encoder
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.views import ViewsConfig
from jepa_pipeline.distributed import shard_like
from jepa_pipeline.files import sha256_of
from jepa_pipeline.methods.method import Method
from jepa_pipeline.models.fit_weights import fit_weights, shapes_of
from jepa_pipeline.models.weights import Weights, read_weights
from jepa_pipeline.training.begun_from import InitialWeights, read_initial_checkpoint, write_initial_checkpoint
from jepa_pipeline.training.checkpoint import State, unsharded
from jepa_pipeline.training.collectives import run_on_all_ranks, run_on_rank_zero
from jepa_pipeline.training.dcp_storage import LoadTargets
from jepa_pipeline.training.init_from_run import find_checkpoint, init_from_run
from jepa_pipeline.training.module import Pretraining
from jepa_pipeline.training.same_networks import check_same_architecture

NAMED = 3
"""Tensors that a refusal names."""
COLOR_TOLERANCE = 1e-3
"""Difference of means and deviations below which they are the same but for rounding."""


def initialize(
    module: Pretraining, source: Path, config: RunConfig, log: Callable[[str], object], targets: LoadTargets = unsharded
) -> list[State]:
    """Load what init_from names into a run. All processes must call it.

    Args:
        module: of the run.
        source: init_from.
        config: of the run.
        log: called with sentences.
        targets: see `load_checkpoint`.

    Returns:
        The optimizer's state in a list; an empty list after an encoder folder, which has none.

    Raises:
        UserError: there is neither a run nor an encoder, or it does not fit this run.
    """
    encoder = run_on_rank_zero(lambda: find_encoder(source))
    if encoder is None:
        return [init_from_run(module, source, config, log, targets)]
    init_from_encoder(module, encoder, config, log)
    return []


def check_source(source: Path, config: RunConfig, build: Callable[[], Method]) -> str:
    """Return a sentence on what would initialize a run; of another run's checkpoint no tensors are read.

    Args:
        source: init_from.
        config: of the run.
        build: returns the run's method, of which shapes are enough.

    Raises:
        UserError: as `initialize`.
    """
    encoder = find_encoder(source)
    if encoder is None:
        return f"initialized with the networks of {find_checkpoint(source, config, build)}"
    return "; ".join([f"initialized with the encoder of {encoder}", *check_encoder(encoder, config, build())])


def init_from_encoder(module: Pretraining, folder: Path, config: RunConfig, log: Callable[[str], object]) -> None:
    """Load an encoder into the encoder of a run and into its average; all else stays new. All processes must call it.

    Args:
        module: of the run.
        folder: of the encoder, which stays as it is.
        config: of the run.
        log: called with sentences.

    Raises:
        UserError: the encoder is damaged, of another architecture, or not the one with which this run was initialized before.
    """
    card, weights = run_on_all_ranks(lambda: read_encoder(folder))
    initial = describe_initial(folder, card)
    before = run_on_rank_zero(lambda: read_initial_checkpoint(config.folder))
    if before is not None and before.sha256 != initial.sha256:
        raise UserError(
            f"this run was initialized with {before.path}, whose SHA-256 is {before.sha256[:12]}..., but that of {folder} is "
            f"{initial.sha256[:12]}...: copy it back, or delete this run's folder to begin with this one"
        )
    fitted, notes = fit_levels(folder, card, weights, config, module.method)
    for level, encoders in zip(fitted, module.method.encoders_by_level(), strict=False):
        for encoder in encoders:
            network = encoder.timm_module()
            own = network.state_dict()
            network.load_state_dict({name: shard_like(tensor, own[name]) for name, tensor in level.items()}, strict=True)
    write_initial_checkpoint(config.folder, initial)
    log(f"initialized with the encoder of {initial.describe()}: {describe_new(module.method, len(fitted))}")
    for note in notes:
        log(note)


def check_encoder(folder: Path, config: RunConfig, method: Method) -> list[str]:
    """Return sentences on what would be changed in an encoder that initializes a run. method: of the run, of which shapes count.

    Raises:
        UserError: as `init_from_encoder`.
    """
    card, weights = read_encoder(folder)
    return fit_levels(folder, card, weights, config, method)[1]


def read_encoder(folder: Path) -> tuple[EncoderCard, Weights]:
    """Return card and weights of an encoder folder.

    Raises:
        UserError: it is none, as another library's is, or damaged.
    """
    try:
        return read_weights(folder)
    except UserError as error:
        raise UserError(f"init_from is {folder}, but {error}") from None


def describe_initial(folder: Path, card: EncoderCard) -> InitialWeights:
    """Return what begun_from.json says of an encoder folder."""
    origin = f"began from {card.begun_from}" if card.begun_from else None
    if card.source is not None:
        revision = f" at revision {card.source.revision}" if card.source.revision else ""
        origin = (
            f"was imported from {card.source.path}{revision} (license {card.source.license}, SHA-256 {card.source.sha256[:12]})"
        )
    sha256 = card.sha256 or sha256_of(folder / WEIGHTS)  # cards of earlier versions have none
    return InitialWeights(path=str(folder), step=card.step, samples=card.samples, sha256=sha256, origin=origin)


def fit_levels(
    folder: Path, card: EncoderCard, weights: Weights, config: RunConfig, method: Method
) -> tuple[list[dict[str, Tensor]], list[str]]:
    """Return the weights of each level of an encoder as a run's encoder takes them, and sentences on what was changed.

    Raises:
        UserError: it is of another architecture.
    """
    check_same_architecture(folder, card.encoder, config.method)
    fitted, notes = list[dict[str, Tensor]](), list[str]()
    levels = card.encoder.levels
    for number, (saved, encoders) in enumerate(zip(levels, method.encoders_by_level(), strict=False)):
        prefix = f"encoders.{number}." if card.encoder.is_stack else ""
        own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
        level = fit_weights(own, saved, encoders[0])
        check_fits(folder, level.weights, shapes_of(encoders[0]))
        fitted.append(level.weights)
        notes += [f"level {number + 1}: {note}" if len(levels) > 1 else note for note in level.notes]
    return fitted, [*notes, *compare_colors(card, config.views)]


def check_fits(folder: Path, weights: Mapping[str, Tensor], own: Mapping[str, Any]) -> None:
    """Refuse weights that are not those of the run's encoder, tensor by tensor."""
    shapes = {name: tensor.shape for name, tensor in weights.items()}
    differing = sorted(name for name in shapes.keys() | own.keys() if shapes.get(name) != own.get(name))
    if differing:
        named = [f"{name} is {size(shapes.get(name))}, but here it is {size(own.get(name))}" for name in differing[:NAMED]]
        more = f", and {len(differing) - NAMED} more tensors differ" if len(differing) > NAMED else ""
        raise UserError(
            f"init_from is {folder}, whose network is another one: {'; '.join(named)}{more}: give method.encoder the values of its "
            f"{CARD}"
        )


def size(shape: Any) -> str:
    return "missing" if shape is None else f"{list(shape)}"


def compare_colors(card: EncoderCard, views: ViewsConfig) -> list[str]:
    """Return a sentence if the run normalizes pixels otherwise than the encoder's training did."""
    pairs = [*zip((*card.mean, *card.std), (*views.mean, *views.std), strict=False)]
    if len(card.mean) != len(views.mean) or all(abs(there - here) <= COLOR_TOLERANCE for there, here in pairs):
        return []
    mean, std = (f"[{', '.join(f'{value:g}' for value in values)}]" for values in (card.mean, card.std))
    return [
        f"warning: that encoder was trained on pixels normalized with other values than views.mean and views.std: set "
        f"'views.mean={mean}' 'views.std={std}' to begin where it ended"
    ]


def describe_new(method: Method, levels: int) -> str:
    """Return what of a method has the encoder's weights, and what is new."""
    by_level = method.encoders_by_level()
    taken = {id(parameter) for encoders in by_level[:levels] for one in encoders for parameter in one.parameters()}
    new = dict[str, None]()
    for name, parameter in method.named_parameters():
        if id(parameter) not in taken and parameter.requires_grad:
            first, *rest = name.split(".")
            new[f"level {int(rest[0]) + 1}'s {rest[1]}" if first == "levels" else first] = None
    networks = "encoder and target have" if len(by_level[0]) > 1 else "the encoder has"
    return f"{networks} its weights; {', '.join(new)} and the moments of the optimizer are new"
