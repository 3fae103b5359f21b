"""State as a tree of dicts, lists and tuples, and its tensors by flat names."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


def mapped(tree: Any, change: Callable[[str, Any], Any], name: str = "") -> Any:
    """The same tree with other leaves, each made of its dotted name and what it was."""
    start = f"{name}." if name else ""
    if isinstance(tree, dict):
        return {key: mapped(value, change, f"{start}{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [mapped(value, change, f"{start}{number}") for number, value in enumerate(tree)]
        return items if isinstance(tree, list) else tuple(items)
    return change(name, tree)


def split(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """A tree with None in the place of each tensor, and the tensors by name.

    Raises:
        ValueError: two leaves have one name.
    """
    tensors: dict[str, Tensor] = {}
    names = set[str]()

    def take(name: str, leaf: Any) -> Any:
        if name in names:
            raise ValueError(f"two values of the state are named {name}: rename one")
        names.add(name)
        if not isinstance(leaf, Tensor):
            return leaf
        tensors[name] = leaf.detach()
        return None

    return mapped(tree, take), tensors


def join(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The tree that was split."""
    return mapped(tree, lambda name, leaf: tensors.get(name, leaf))


def on_host(tree: Any) -> Any:
    """A copy of a tree that no later change of its tensors reaches, in the host's memory."""
    return mapped(tree, lambda _, leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf)
