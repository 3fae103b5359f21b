"""Nested dicts, lists and tuples, and the dotted names of their leaves."""

import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor


# torch.utils._pytree and torch.distributed.checkpoint's flattening do the same under private names, and the names they give to
# leaves would become part of the format on disk.
def map_with_names(tree: Any, function: Callable[[str, Any], Any], prefix: str = "") -> Any:
    """Return the tree with each leaf replaced by `function(name, leaf)`, where a name is such as "optimizer.state.0.step"."""
    start = f"{prefix}." if prefix else ""
    if isinstance(tree, dict):
        return {key: map_with_names(value, function, f"{start}{key}") for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        items = [map_with_names(value, function, f"{start}{index}") for index, value in enumerate(tree)]
        return items if isinstance(tree, list) else tuple(items)
    return function(prefix, tree)


def split_tensors(tree: Any) -> tuple[Any, dict[str, Tensor]]:
    """Return the tree with None for each tensor, and the tensors by name in its order, detached.

    Raises:
        ValueError: two leaves have one name.
    """
    tensors: dict[str, Tensor] = {}
    names = set[str]()

    def remove(name: str, leaf: Any) -> Any:
        if name in names:
            raise ValueError(f"two values of the state are named {name}: rename one")
        names.add(name)
        if not isinstance(leaf, Tensor):
            return leaf
        tensors[name] = leaf.detach()
        return None

    return map_with_names(tree, remove), dict(sorted(tensors.items()))


def merge_tensors(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Put the tensors back that `split_tensors` took out."""
    return map_with_names(tree, lambda name, leaf: tensors.get(name, leaf))


def canonical(tree: Any) -> Any:
    """Return a tree of equal values of which torch.save writes the same bytes as of every other tree of equal values.

    A pickle depends on the order of dicts, on which equal strings are one object, and on where the memory of tensors lies, all of
    which a resumed run has otherwise.
    """
    match tree:
        case dict():
            return {canonical(key): canonical(tree[key]) for key in sorted(tree, key=str)}
        case list() | tuple():
            return type(tree)([canonical(value) for value in tree])
        case str():
            return sys.intern(tree)
        case Tensor():
            return tree.detach().to("cpu", copy=True).contiguous()
        case _:
            return tree


def copy_to_host(tree: Any) -> Any:
    """Return a copy of the tree whose tensors are in host memory and share nothing with the originals."""
    return map_with_names(tree, lambda _, leaf: leaf.detach().to("cpu", copy=True) if isinstance(leaf, Tensor) else leaf)
