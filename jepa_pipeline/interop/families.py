"""The layouts of published weights that `jepa import` reads."""

from difflib import get_close_matches

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop.hf_import import HUGGING_FACE
from jepa_pipeline.interop.official import OFFICIAL
from jepa_pipeline.interop.published import Family, Published
from jepa_pipeline.interop.timm_import import TIMM

FAMILIES: tuple[Family, ...] = (*OFFICIAL, *HUGGING_FACE, *TIMM)
"""Families of one name are layouts of one network; the weights show which."""


def choose_family(published: Published, name: str | None) -> tuple[Family, Published]:
    """Return the family that the user names, or the only one that recognizes the weights; and the weights, with its argument.

    Args:
        published: the weights.
        name: the name of a family, with a colon and the argument for those that take one; None: not named.

    Raises:
        UserError: there is no such family, or none recognizes the weights, or several do.
    """
    if name is None:
        return recognize(published), published
    name, colon, argument = name.partition(":")
    named = [family for family in FAMILIES if family.name == name]
    if not named:
        near = get_close_matches(name, [family.name for family in FAMILIES], 1, cutoff=0.5)
        raise UserError(f"--as {name} is not a layout of weights{f' (did you mean {near[0]}?)' if near else ''}: choose {listed()}")
    fitting = [family for family in named if (family.argument is not None) == bool(colon)] or named
    written = [family for family in fitting if (family in HUGGING_FACE) == ("model_type" in published.config)]
    family = next((family for family in fitting if family.recognize(published)), (written or fitting)[0])
    if family.argument is None and colon:
        raise UserError(f"--as {name}:{argument}: {name} takes no argument: give --as {name}")
    if family.argument is not None and not argument:
        raise UserError(f"--as {name} does not say which: give --as {name}:{family.argument}")
    return family, published._replace(argument=argument or None)


def recognize(published: Published) -> Family:
    recognized = [family for family in FAMILIES if family.recognize(published)]
    if len(recognized) == 1:
        return recognized[0]
    if recognized:
        names = ", ".join(family.name for family in recognized)
        raise UserError(f"{published.path} fits several layouts ({names}): choose one with --as")
    raise UserError(f"the layout of {published.path} cannot be determined: choose one with --as: {listed()}")


def listed() -> str:
    """Return the names of all families with what they read, for --help and errors."""
    names = [(f"{family.name}:{family.argument}" if family.argument else family.name, family.description) for family in FAMILIES]
    return ", ".join(f"{name} ({description})" for name, description in names)
