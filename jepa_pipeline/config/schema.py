"""JSON schemas of recipes, suites, sites and probe settings as people write them, for editors."""

from typing import Any

from jepa_pipeline.config.keys import TREES, Tree

DIALECT = "https://json-schema.org/draft/2020-12/schema"
EXTENDS = {
    "description": "Files, relative to this one, or recipes of jepa_pipeline by name, below which this one is merged.",
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
}
DROPPED = ("required", "discriminator", "title")
"""Words of a schema that do not hold for a file that extends another, that editors do not know, or that repeat the key."""
DIGITS = {"type": "string", "pattern": r"^[0-9][0-9_]*$"}
"""An integer such as 1_281_167, a number in the YAML that is read here and a text to editors."""


def file_schema(tree: Tree) -> dict[str, Any]:
    """Return the JSON schema of a file; values that are missing are no mistakes, because it may extend another."""
    schema = as_written(TREES[tree].model_json_schema())
    properties = schema["properties"] | ({} if tree == "probe" else {"extends": EXTENDS})
    return {"$schema": DIALECT, "title": f"jepa_pipeline {tree}", **schema, "properties": properties}


def as_written(schema: Any) -> Any:
    """Return a part of pydantic's schema for what may be in one file.

    Kinds of a section are no longer exclusive: without its name, a section may fit several.
    """
    if isinstance(schema, list):
        return [as_written(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("type") == "integer":
        number = {key: value for key, value in schema.items() if key not in (*DROPPED, "description", "default")}
        return {"anyOf": [number, DIGITS], **{key: schema[key] for key in ("description", "default") if key in schema}}
    renamed = {"anyOf" if key == "oneOf" else key: value for key, value in schema.items()}
    named = ("properties", "$defs")  # whose keys are names, not words of the schema
    return {
        key: {name: as_written(part) for name, part in value.items()} if key in named else as_written(value)
        for key, value in renamed.items()
        if key not in DROPPED
    }
