"""The predictors of official checkpoints, with which an imported encoder is a JEPA whose energies can be measured."""

import re
from typing import NamedTuple

import torch
from pydantic import ValidationError
from torch import Tensor

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.jepa import IJepaConfig, VJepa2Config, VJepaConfig
from jepa_pipeline.config.networks import EncoderConfig, PredictorConfig
from jepa_pipeline.interop.importing import check_fits, convert, own
from jepa_pipeline.interop.official import BLOCK, ROUNDING, find, mlp_ratio
from jepa_pipeline.interop.published import Family, Imported, Published, rename
from jepa_pipeline.interop.reading import checked
from jepa_pipeline.models.positions import sincos
from jepa_pipeline.models.predictor import Predictor

AnyJepa = IJepaConfig | VJepaConfig | VJepa2Config
METHODS: dict[str, type[AnyJepa]] = {"ijepa": IJepaConfig, "vjepa": VJepaConfig, "vjepa2": VJepa2Config}
"""Methods of the families whose predictor is one of this package; V-JEPA 2.1's predicts several levels at once."""
RULES = (
    (r"predictor_(embed|norm|proj)\.(weight|bias)", r"\1.\2"),
    (rf"predictor_({BLOCK})", r"\1"),
)
TOKEN, POSITIONS = r"mask_tokens?(?:\.\d+)?", r"predictor_pos_embed"
PUBLISHED_WIDTH, PUBLISHED_HEADS = 384, 12
"""Sizes of V-JEPA 2's predictor; those of I-JEPA and V-JEPA have as many heads as their encoder."""


class ImportedMethod(NamedTuple):
    """A JEPA whose target encoder is imported.

    Attributes:
        config: of the method, with the masks of its paper.
        weights: of its context encoder and predictor, by the names in the method's state.
        notes: what a user must know of it, in sentences.
    """

    config: AnyJepa
    weights: dict[str, Tensor]
    notes: tuple[str, ...]


def convert_method(family: Family, published: Published, imported: Imported) -> ImportedMethod:
    """Return the context encoder and the predictor beside an imported target encoder.

    Raises:
        UserError: the file does not hold both, or the predictor is none of this package's.
    """
    if family.name not in METHODS:
        raise UserError(f"the predictor of {family.name} is none that this package has: leave --predictor out")
    if not published.predictor or not published.online:
        raise UserError(f"{published.path} does not hold an encoder, a target_encoder and a predictor: leave --predictor out")
    online, _ = checked(published.path, published.online)
    context = convert(family, published._replace(tensors=online))
    tensors, _ = checked(published.path, published.predictor)
    predictor = published._replace(tensors=tensors)
    assert isinstance(imported.config, EncoderConfig)
    renamed = rename(predictor, RULES, drop=(TOKEN, POSITIONS))
    renamed["mask_token"], note = mask_token(family, predictor)
    config = method_config(family, predictor, imported.config)
    check_positions(predictor, config)
    with torch.device("meta"):
        network = Predictor(config.predictor, config.encoder, len(config.mask_sets))
    check_fits(published.path, f"the predictor of {family.name}", network.state_dict(), renamed)
    weights = {f"encoder.{name}": tensor for name, tensor in context.weights.items()}
    return ImportedMethod(config, weights | {f"predictor.{name}": own(tensor) for name, tensor in renamed.items()}, note)


def mask_token(family: Family, predictor: Published) -> tuple[Tensor, tuple[str, ...]]:
    """Return the mask tokens of the mask sets "S 1 P", and a note if not all in the file are used.

    Raises:
        UserError: their number is not that of the method's mask sets.
    """
    names = sorted((name for name in predictor.tensors if re.fullmatch(TOKEN, name)), key=lambda name: (len(name), name))
    tokens = [predictor.tensors[name] for name in names]
    wanted = 2 if family.name == "vjepa" else 1
    if len(tokens) < wanted or (len(tokens) > wanted and family.name != "vjepa2"):
        raise UserError(f"the predictor in {predictor.path} has {len(tokens)} mask tokens, but {family.name} has {wanted}")
    if any(token.ndim != 3 for token in tokens) or len({token.shape for token in tokens}) > 1:
        raise UserError(
            f"{names[0]} in {predictor.path} has the shape {list(tokens[0].shape)}, which is not a mask token: copy it again"
        )
    note = f"of its {len(tokens)} mask tokens, {names[0]} is taken, the only one that training on clips of one length changes"
    return torch.cat(tokens[:wanted]), (note,) if len(tokens) > wanted else ()


def method_config(family: Family, predictor: Published, encoder: EncoderConfig) -> AnyJepa:
    """Return the configuration of the method, with its published masks.

    Raises:
        UserError: the heads are unknown, or the sizes do not fit each other.
    """
    dim, hidden = len(find(predictor, "predictor_embed.weight")), len(find(predictor, "predictor_blocks.0.mlp.fc1.weight"))
    depth = len({match[1] for match in map(re.compile(r"predictor_blocks\.(\d+)\.").match, predictor.tensors) if match})
    heads = predictor.given.predictor_heads
    if heads is None and family.name == "vjepa2" and dim != PUBLISHED_WIDTH:
        raise UserError(f"the predictor in {predictor.path} has a width of {dim}, whose heads are unknown: give predictor_heads=N")
    heads = heads or (PUBLISHED_HEADS if family.name == "vjepa2" else encoder.size.num_heads)
    try:
        sizes = PredictorConfig(
            embed_dim=dim,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio(dim, hidden),
            shared_mask_token=family.name == "vjepa2",
        )
        return METHODS[family.name].model_validate({"name": family.name, "encoder": encoder, "predictor": sizes})
    except ValidationError as error:
        text = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise UserError(f"the predictor in {predictor.path} cannot be built: {text}") from None


def check_positions(predictor: Published, config: AnyJepa) -> None:
    """Raise UserError if a predictor whose positions are added has others than this package computes."""
    table = predictor.tensors.get("predictor_pos_embed")
    if config.encoder.rotary or table is None:
        return
    expected = sincos(config.encoder, config.predictor.embed_dim)[None]
    if table.shape != expected.shape or not torch.allclose(table, expected, rtol=0, atol=ROUNDING):
        raise UserError(
            f"predictor_pos_embed in {predictor.path} is not the table that {config.encoder.positions} computes: leave --predictor "
            "out"
        )
