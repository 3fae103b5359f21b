"""The house: who may import whom, which room opens onto which heavy dependency, and how large a thing may grow."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "jepa_pipeline"
FILES = sorted(PACKAGE.rglob("*.py"))

FOUNDATION = {"config", "batch", "console", "custom", "distributed", "files", "locks", "redaction", "version"}
MAY_IMPORT = {
    "version": set(),
    "console": set(),
    "redaction": set(),
    "files": {"redaction"},
    "locks": {"files"},
    "config": {"files", "redaction", "version"},
    "custom": {"config"},
    "batch": set(),
    "distributed": set(),
    "losses": set(),
    "models": FOUNDATION,
    "interop": FOUNDATION | {"models"},
    "masks": {"config", "batch"},
    "data": {"config", "batch", "console", "custom", "files", "locks", "redaction", "version"},
    "synthetic": {"config", "batch", "version", "data"},
    "methods": FOUNDATION | {"losses", "models"},
    "cluster": {"config", "files", "redaction", "version"},
    "results": {"config", "console", "files", "redaction", "version", "data", "cluster"},
    "probes": FOUNDATION | {"losses", "models", "interop", "data", "results"},
    "checks": FOUNDATION | {"models", "data", "methods", "cluster", "training"},
    "selftest": FOUNDATION | {"data", "synthetic", "training"},
    "tuning": FOUNDATION | {"data", "training"},
    "training": FOUNDATION | {"losses", "models", "masks", "data", "methods", "probes", "results", "cluster"},
}
ROOMS = set(MAY_IMPORT)
ON_TOP = {"commands", "cli"}
COMMANDS = {path.stem for path in (PACKAGE / "commands").glob("*.py")} - {"__init__"}
DOORS = {
    "av": {"data"},
    "huggingface_hub": {"interop"},
    "onnx": {"interop"},
    "onnxruntime": {"interop"},
    "pyarrow": {"probes"},
    "transformers": {"interop"},
    "lightning": {"training"},
    "timm": {"models", "interop", "training", "_torchvision"},
    "submitit": {"cluster"},
    "torch.distributed": {"distributed", "training"},
    "torchvision": {"_torchvision"},
    "wandb": {"training"},
    "webdataset": {"data"},
}


def room(path):
    inside = path.relative_to(PACKAGE)
    return inside.parts[0] if len(inside.parts) > 1 else inside.stem


def imports(path, top_only=False):
    """(module, names) of every import of a file."""
    tree = ast.parse(path.read_text())
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, ()) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module, tuple(alias.name for alias in node.names)


def ours(path, top_only=False):
    """The rooms of this package that a file imports."""
    for module, names in imports(path, top_only):
        parts = module.split(".")
        if parts[0] == "jepa_pipeline":
            yield from parts[1:2] if len(parts) > 1 else (name for name in names if name in ROOMS | ON_TOP)


def test_the_rooms_are_all_on_the_plan():
    assert {room(path) for path in FILES} == ROOMS | ON_TOP | {"__init__", "__main__", "_torchvision"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    here, found = room(path), set(ours(path)) - {"_torchvision"}
    if here in ROOMS:
        allowed = MAY_IMPORT[here] | {here}
    elif here == "commands":
        allowed = ROOMS | {here}
    elif here == "cli":
        assert set(ours(path, top_only=True)) <= {"cli", "config", "redaction", "version"}, (
            "cli may import only config at its top, or --help waits for torch"
        )
        allowed = ROOMS | ON_TOP
    else:
        allowed = {"__init__": ROOMS | {"commands"}, "__main__": {"cli"}}.get(here, set())
    for other in found - {here}:
        assert other in allowed, f"{path} may not import {other}, because imports go down only and verbs do not call each other"


@pytest.mark.parametrize("name", sorted(COMMANDS - {"quickstart"}))
def test_commands_do_not_call_each_other(name):
    """quickstart alone is a sequence of the others."""
    modules = {module for module, _ in imports(PACKAGE / "commands" / f"{name}.py")}
    assert not {f"jepa_pipeline.commands.{other}" for other in COMMANDS} & modules


MADE_OF = {"jepa": {"targets"}, "level_inputs": {"jepa"}, "hjepa": {"jepa", "level_inputs"}}
"""A stack is made of JEPAs: its levels are the flat method itself."""


def test_no_method_imports_another():
    methods = [path for path in FILES if room(path) == "methods" and path.stem not in ("__init__", "method", "build")]
    for path in methods:
        modules = {module.split(".")[-1] for module, _ in imports(path) if module.startswith("jepa_pipeline.methods.")}
        assert modules <= {"method", "regularizer"} | MADE_OF.get(path.stem, set())


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_dependencies_have_one_door(path):
    modules = [module for module, _ in imports(path)]
    heads = {module.split(".")[0] for module in modules}
    for package, rooms in DOORS.items():
        opened = any(f"{module}.".startswith(f"{package}.") for module in modules)
        assert not opened or room(path) in rooms, f"{path} may not import {package}: its door is {sorted(rooms)}"
    if room(path) == "config":
        assert not heads & {"torch", "numpy"}, "the configuration answers at once: no torch, no numpy"
    if heads & {"timm", "lightning"} and path.name != "_torchvision.py":
        first = [
            module
            for module, _ in imports(path)
            if module.split(".")[0] in {"timm", "lightning"} or module.endswith("_torchvision")
        ]
        assert first[0] == "jepa_pipeline._torchvision", f"{path} must import jepa_pipeline._torchvision before {first[0]}"


def test_nothing_has_a_name_that_means_anything():
    assert not {path.stem for path in FILES} & {"utils", "util", "common", "helpers", "base", "misc"}


def test_files_and_functions_stay_readable():
    lengths = []
    for path in FILES:
        tree = ast.parse(path.read_text())
        assert len(path.read_text().splitlines()) <= 300, f"{path} is more than one concept"
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                lengths.append(node.end_lineno - node.lineno + 1)
                assert lengths[-1] <= 80, f"{path}:{node.lineno} {node.name} has {lengths[-1]} lines"
                arguments = len(node.args.args) + len(node.args.kwonlyargs)
                most = 12 if room(path) in ON_TOP else 9  # a verb has an argument for each of its options
                assert arguments <= most, f"{path}:{node.lineno} {node.name} has {arguments} arguments"
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 12 and lengths[len(lengths) * 9 // 10] <= 35


def test_the_project_speaks_of_itself_alone():
    """No file of the repository names a machine's paths or a package registry's host."""
    root = PACKAGE.parent
    forbidden = ["/".join(["", "work", ""]), "pypi" + ".org", "files.python" + "hosted"]
    for path in [*root.rglob("*.py"), *root.rglob("*.md"), *root.rglob("*.yaml"), *root.rglob("*.toml"), *root.rglob("*.txt")]:
        if ".git" not in path.parts and "venv" not in "".join(path.parts) and not path.is_symlink():
            text = path.read_text()
            assert not any(word in text for word in forbidden), path


MODULES = {".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def graph():
    """For each module of the package, the modules it imports, also inside functions."""
    edges = {}
    for module, path in MODULES.items():
        found = {name for name, _ in imports(path)} | {f"{name}.{part}" for name, parts in imports(path) for part in parts}
        edges[module] = (found & set(MODULES)) - {module}
    return edges


def floors(edges):
    """The length of the longest chain of imports that starts at each module.

    Raises:
        CycleError: modules import each other in a circle.
    """
    height = {}
    for module in TopologicalSorter(edges).static_order():
        height[module] = 1 + max((height[other] for other in edges[module]), default=0)
    return height


def test_no_files_import_each_other_and_chains_are_short():
    height = floors(graph())
    highest = max(height, key=height.get)
    assert height[highest] <= 15, f"{highest} stands on a chain of {height[highest]} imports"
