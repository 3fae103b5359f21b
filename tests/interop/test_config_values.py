"""Every value of a config.json of transformers, changed: the same network, the one that transformers makes of it, or one sentence."""

import json
from functools import cache
from types import MappingProxyType

import pytest
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from test_transformers_in import difference_to, make, pixels_for, tokens_of
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.interop import importing
from jepa_pipeline.interop.families import choose_family
from jepa_pipeline.interop.published import Imported, Published
from jepa_pipeline.models.build import build_encoder

NAMES = ["ijepa", "vjepa2", "vit", "dinov2 swiglu", "dinov2 registers", "dinov3"]
MORE = ["vit no bias", "dinov2", "dinov3 gated", "dinov3 fewest biases", "dinov3 no bias"]
REMOVED = object()
WRONG = [REMOVED, None, "text", -1, 0, 10**6, 1e308, [7, 8]]
MORE_WRONG = ["", float("nan"), [], {"a": 1}, 0.5, 10**400, True]
COMMON = transformers.PretrainedConfig().to_dict().keys()
"""Keys of every network of transformers, such as output_attentions: none changes what is computed."""


class LargestTensor(TorchDispatchMode):
    """Remembers the elements of the largest tensor that has memory."""

    def __init__(self):
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves(found) if isinstance(leaf, torch.Tensor) and not leaf.is_meta]
        self.elements = max([self.elements, *(tensor.numel() for tensor in tensors)])
        return found


@pytest.fixture(autouse=True)
def networks_are_built_once(monkeypatch):
    """Without weights, of which an import looks at the shapes alone."""
    by_values = cache(lambda kind, values: build_encoder(kind.model_validate_json(values)))
    monkeypatch.setattr(importing, "build_encoder", lambda config: by_values(type(config), config.model_dump_json()))


def import_values(published: Published, values: dict) -> Imported:
    changed = published._replace(config=values)
    family, changed = choose_family(changed, None)
    return importing.convert(family, changed)


def is_same(one: Imported, other: Imported) -> bool:
    return one._replace(weights={}) == other._replace(weights={}) and all(
        torch.equal(one.weights[name], other.weights[name]) for name in one.weights | other.weights
    )


def other_value(value):
    """Return another value of the same kind, which transformers may accept."""
    if isinstance(value, bool):
        return not value
    return 2 * value if isinstance(value, int | float) else "gelu_new" if value == "gelu" else REMOVED


def by_transformers(network, values: dict):
    """Return the network that transformers makes of weights and changed values; None where it refuses either."""
    floats = {key for key, value in network.config.to_dict().items() if isinstance(value, float)}
    values = {key: float(value) if key in floats and type(value) is int else value for key, value in values.items()}
    torch.manual_seed(0)
    try:
        changed = type(network)(type(network.config)(**values))
        changed.load_state_dict(network.state_dict())
    except (RuntimeError, ValueError, TypeError, KeyError, StrictDataclassError):
        return None
    return changed.eval()


def computes(imported: Imported, network) -> bool:
    with torch.inference_mode():
        encoder = build_encoder(imported.config).eval()
        encoder.timm_module().load_state_dict(imported.weights)
        pixels = pixels_for(imported.config.frames, imported.config.image_size)
        return difference_to(tokens_of(network, pixels), encoder, pixels) <= 1e-5


CASES = [pytest.param(name, WRONG, id=name) for name in NAMES]
CASES += [pytest.param(name, [*WRONG, *MORE_WRONG], id=f"{name}, more values", marks=pytest.mark.slow) for name in (*NAMES, *MORE)]


@pytest.mark.parametrize(("name", "wrong"), CASES)
def test_a_changed_value_is_no_other_network(name, wrong):
    network = make(name)
    published = Published("folder", MappingProxyType(dict(network.state_dict())), json.loads(network.config.to_json_string(False)))
    right, largest = import_values(published, published.config), max(tensor.numel() for tensor in published.tensors.values())
    assert computes(right, network)
    outcomes = set[str]()
    for key in sorted((published.config.keys() - COMMON) | {"model_type"}):
        before = published.config[key]
        without = {other: value for other, value in published.config.items() if other != key}
        for value in [*wrong, other_value(before)]:
            values = without if value is REMOVED else {**without, key: value}
            where = f"{key}: {before} -> {'removed' if value is REMOVED else value}"
            with LargestTensor() as memory:
                try:
                    imported = import_values(published, values)
                except UserError as error:
                    assert len(str(error).splitlines()) == 1 and (key in str(error) or key == "model_type"), f"{where}: {error}"
                    outcomes.add("refused")
                    continue
            assert memory.elements <= 4 * largest, where
            if is_same(imported, right):
                outcomes.add("the same")
                if value == other_value(before) and (theirs := by_transformers(network, values)) is not None:
                    assert computes(imported, theirs), where
            else:
                outcomes.add("another, as in transformers")
                theirs = by_transformers(network, values)
                assert theirs is not None and computes(imported, theirs), where
    assert outcomes == {"refused", "the same", "another, as in transformers"}
