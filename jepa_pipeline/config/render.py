"""Configurations as YAML, also with comments."""

from io import StringIO
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from jepa_pipeline.files import atomic_write
from jepa_pipeline.redaction import find_secrets


def to_yaml(config: BaseModel) -> str:
    """Return a configuration as YAML, which reads back as the same configuration."""
    return dump(config.model_dump(mode="json"))


def save_config(path: Path, config: BaseModel) -> None:
    """Write a configuration as YAML that reads back as the same configuration; for its owner alone if there is a secret in it."""
    private = any(find_secrets(config.model_dump(mode="json")))
    atomic_write(path, to_yaml(config), exact=True, private=private)


def annotated_yaml(config: BaseModel) -> str:
    """Return a configuration as YAML with every key's description above it."""
    return dump(annotate(config, indent=0))


def annotate(config: BaseModel, indent: int) -> CommentedMap:
    node = CommentedMap()
    for name, field in type(config).model_fields.items():
        if field.exclude:
            continue
        value = getattr(config, name)
        node[name] = annotate(value, indent + 2) if isinstance(value, BaseModel) else config.model_dump(mode="json")[name]
        node.yaml_set_comment_before_after_key(name, before=field.description, indent=indent)
    return node


def dump(values: Any) -> str:
    yaml = YAML()
    yaml.width = 120
    yaml.default_flow_style = None
    stream = StringIO()
    yaml.dump(values, stream)
    return stream.getvalue()
