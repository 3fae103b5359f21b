"""The run folder: who it belongs to, and what it was made on."""

import json
from pathlib import Path

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.load import load_config
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.config.show import to_yaml
from jepa_pipeline.training.checkpoint import steps
from jepa_pipeline.training.environment import describe_environment


def open_folder(config: RunConfig, data_hash: str) -> None:
    """Claim the run folder, or recognise the same run in it; a run without a checkpoint has nothing to protect.

    Raises:
        UserError: the folder holds a checkpoint of a run that computes something else, or on other data.
    """
    if steps(config.folder / "checkpoints"):
        differing = differences(load_config(config.folder / "config.yaml").results(), config.results())
        before = json.loads((config.folder / "environment.json").read_text())["data_hash"]
        if before != data_hash:
            differing.append(f"the shards' manifest: {before} there, {data_hash} here")
        if differing:
            raise UserError(
                f"{config.folder} holds a run with another configuration ({'; '.join(differing)}): "
                f"choose another name, or delete that folder to start anew"
            )
    environment = {"config_hash": config.hash(), "data_hash": data_hash, **describe_environment()}
    config.folder.mkdir(parents=True, exist_ok=True)
    replace_text(config.folder / "environment.json", json.dumps(environment, indent=2) + "\n")
    replace_text(config.folder / "config.yaml", to_yaml(config))


def differences(old: dict[str, object], new: dict[str, object]) -> list[str]:
    """Dotted keys whose values differ, with both values."""
    keys = sorted(old.keys() | new.keys())
    return [f"{key}: {old.get(key)} there, {new.get(key)} here" for key in keys if old.get(key) != new.get(key)]


def replace_text(path: Path, text: str) -> None:
    """Write a file so that it is the old one or the new one, never half of it."""
    partial = path.with_name(f".{path.name}")
    partial.write_text(text)
    partial.replace(path)
