"""A hook of mkdocs: the reference of all keys and commands, written from the code whenever the site is built.

`mkdocs build --strict` calls `on_files`, which adds the pages of `PAGES` to those in docs/.
"""

from collections.abc import Iterator
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge, Gt, Le, Lt, MinLen
from mkdocs.structure.files import File, Files
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from jepa_pipeline.cli import app
from jepa_pipeline.config.probe import ProbeConfig
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.section import section_types, type_name
from jepa_pipeline.config.site import SiteConfig
from jepa_pipeline.config.suite import SuiteConfig

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig

BOUNDS = {Ge: "≥", Gt: ">", Le: "≤", Lt: "<"}
FAR = 2**31
"""Bounds beyond this are those of a number's type, and say nothing to a reader."""
SINGULAR = {int: "integer", float: "number", str: "text", bool: "true or false"}


def on_files(files: Files, config: "MkDocsConfig") -> Files:
    """Add the generated pages; mkdocs calls this."""
    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Return the text of each generated page by its path in docs/."""
    return {
        "reference/recipe.md": keys_page(
            "Keys of a recipe",
            "A recipe is a YAML file of these keys. On the command line a key is written with dots, `optim.lr=3e-4`, and an entry "
            "of a list by its number, `views.crops.0.flip=0.5`. `jepa config show` prints the same in a terminal.",
            RunConfig,
        ),
        "reference/probe.md": keys_page(
            "Keys of a probe",
            "Settings of `jepa probe`, given as KEY=VALUE: `jepa probe RUN --data DATA 'protocols=[knn]'`.",
            ProbeConfig,
        ),
        "reference/suite.md": keys_page(
            "Keys of a benchmark suite", "The YAML file of `jepa benchmark`, such as `configs/suites/demo.yaml`.", SuiteConfig
        ),
        "reference/site.md": keys_page(
            "Keys of a site file",
            "How jobs use a Slurm cluster: `~/.config/jepa_pipeline/site.yaml`, `$JEPA_SITE` or `--site FILE`. `--set KEY=VALUE` "
            "overrides a key once.",
            SiteConfig,
        ),
        "reference/import.md": keys_page(
            "Keys of an import",
            "Settings of `jepa import`, given as KEY=VALUE for what a file of weights does not say.",
            ImportSettings,
        ),
        "reference/commands.md": commands_page(),
    }


def keys_page(title: str, introduction: str, model: type[BaseModel]) -> str:
    """Return a page with a table of keys for each section of a configuration."""
    return "\n".join([f"# {title}", "", introduction, *section_tables(model, "", {})]) + "\n"


def section_tables(model: type[BaseModel], prefix: str, shown: dict[type[BaseModel], str]) -> Iterator[str]:
    """Yield the lines of a section's table, then of the tables of the sections in it.

    shown: the heading of each section class met so far, to whose table later ones point; added to.
    """
    yield from ["", "| key | type | default | meaning |", "|---|---|---|---|"]
    below = []
    for name, field in model.model_fields.items():
        types = section_types(field.annotation)
        for section in types:
            if section not in shown:
                title = heading(f"{prefix}{name}", field, section)
                shown[section] = f"{title}: {section.__name__}" if title in shown.values() else title
                below.append((field, section, len(types) > 1))
        kinds = [f"[{shown[section]}](#{anchor(shown[section])})" for section in types]
        kinds = kinds or [type_text(field.annotation, field.metadata)]
        cells = (f"`{prefix}{name}`", " or ".join(kinds), default_text(field), field.description or "")
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"
    for field, section, several in below:
        title = shown[section]
        key = title.split(":")[0]
        yield from ["", f"{'#' * min(2 + key.count('.'), 5)} {title} {{#{anchor(title)}}}", ""]
        yield first_sentence(section) if several else field.description or ""
        yield from section_tables(section, f"{key}.", shown)


def heading(key: str, field: FieldInfo, section: type[BaseModel]) -> str:
    """Return the heading of a section: its key, and what selects it among several."""
    entry = f"{key}.N" if is_list(field.annotation) else key
    return f"{entry}: {type_name(section)}" if len(section_types(field.annotation)) > 1 else entry


def anchor(text: str) -> str:
    return text.replace(": ", "-")


def is_list(annotation: Any) -> bool:
    """Return whether a field holds a list of sections."""
    return get_origin(annotation) is tuple or any(is_list(part) for part in get_args(annotation) if get_origin(part) is not Literal)


def first_sentence(section: type[BaseModel]) -> str:
    return (section.__doc__ or "").strip().split("\n")[0]


def default_text(field: FieldInfo) -> str:
    """Return a default as it is written in YAML."""
    if field.is_required():
        return "required"
    if section_types(field.annotation) and field.get_default(call_default_factory=True):
        return ""  # those of the section
    return f"`{yaml_text(field.get_default(call_default_factory=True))}`"


def yaml_text(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple() | list():
            return "[" + ", ".join(map(yaml_text, value)) + "]"
        case dict():
            return "{" + ", ".join(f"{key}: {yaml_text(entry)}" for key, entry in value.items()) + "}"
        case _:
            return str(value)


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """Return a type in words, with its bounds."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        inner, *extra = arguments
        return type_text(inner, [*extra, *metadata])
    if origin is Literal:
        text = ", ".join(f"`{yaml_text(value)}`" for value in arguments)
    elif origin in (Union, UnionType):
        parts = [type_text(part) for part in arguments if part is not NoneType]
        text = " or ".join([" ".join([*dict.fromkeys(parts), *bounds(metadata)]), *["null"] * (NoneType in arguments)])
        return text
    elif origin is tuple:
        parts = [part for part in arguments if part is not Ellipsis]
        text = "list of " + " and ".join(dict.fromkeys(type_text(part) for part in parts))
        text = text if Ellipsis in arguments else f"{len(parts)} values: {type_text(parts[0])}"
    elif origin in (list, dict):
        text = "list of " + type_text(arguments[0]) if origin is list else "mapping"
    else:
        text = SINGULAR.get(annotation, {"Path": "path"}.get(getattr(annotation, "__name__", ""), "value"))
    return " ".join([text, *bounds(metadata)])


def bounds(metadata: list[Any] | tuple[Any, ...]) -> list[str]:
    """Return the limits in a field's metadata, such as "≥ 1"."""
    found = []
    for entry in metadata:
        inside = entry.metadata if isinstance(entry, FieldInfo) else [entry]
        found += [
            f"{sign} {yaml_text(getattr(limit, kind.__name__.lower()))}"
            for limit in inside
            for kind, sign in BOUNDS.items()
            if isinstance(limit, kind) and abs(getattr(limit, kind.__name__.lower())) < FAR
        ]
        found += ["(not empty)" for limit in inside if isinstance(limit, MinLen) and limit.min_length == 1]
    return found


def commands_page() -> str:
    """Return a page with usage, meaning and options of every command."""
    root = typer.main.get_command(app)
    lines = [
        "# Commands",
        "",
        root.help or "",
        "",
        "Every command also takes `--help`, and `--submit` with the options of [`jepa submit`](#jepa-submit), which run it as a "
        "Slurm job. [Exit codes](exit-codes.md) are the same for all.",
    ]
    for words, command in leaves(root, ("jepa",)):
        lines += ["", f"## {' '.join(words)}", "", (command.help or "").strip(), *parameters(command)]
    return "\n".join(lines) + "\n"


def leaves(command: Any, words: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every command that can be run, with its words; `command` is a click command of typer's own click."""
    if not hasattr(command, "commands"):
        yield words, command
        return
    for name, below in command.commands.items():
        yield from leaves(below, (*words, name))


def parameters(command: Any) -> list[str]:
    """Return the table of a command's arguments and options."""
    rows = []
    for parameter in command.params:
        if parameter.name == "help":
            continue
        argument = parameter.param_type_name == "argument"
        name = (
            f"`{(parameter.metavar or parameter.name).upper()}`"
            if argument
            else ", ".join(f"`{option}`" for option in parameter.opts)
        )
        rows.append(f"| {name} | {parameter_default(parameter)} | {(parameter.help or '').replace('|', chr(92) + '|')} |")
    return ["", "| argument or option | default | meaning |", "|---|---|---|", *rows] if rows else []


def parameter_default(parameter: Any) -> str:
    if parameter.required:
        return "required"
    return "" if parameter.default is None or parameter.default is False else f"`{parameter.default}`"
