"""Weights by their name on a hub: `hf:OWNER/NAME`, with `@REVISION` if not the newest, and `timm:NAME`, timm's own."""

from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.models.backbone import hub_repository

CARDS = ("config.json", "preprocessor_config.json", "video_preprocessor_config.json", "README.md")
SAFETENSORS = ("model*.safetensors", "model.safetensors.index.json")
PICKLED = ("pytorch_model*.bin", "pytorch_model.bin.index.json")
"""Files of weights, which are fetched where there are none in safetensors."""


class Downloaded(NamedTuple):
    """Files that were fetched from a hub.

    Attributes:
        folder: in the cache of huggingface_hub.
        revision: the commit, also where a branch was asked for.
        license: as its publisher says; None: it does not.
    """

    folder: Path
    revision: str
    license: str | None


def is_hub_name(source: str) -> bool:
    """Return whether a source is a name on a hub and no path."""
    return source.startswith(("hf:", "timm:"))


def download(source: str) -> Downloaded:
    """Fetch the weights of a name on a hub, or find them in the cache of huggingface_hub where there is no network.

    Raises:
        UserError: huggingface_hub is not installed, there is no such name or revision, or neither a network nor a copy.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError:
        raise UserError(f"{source} is on a hub, which needs huggingface_hub: pip install huggingface_hub") from None
    kind, _, name = source.partition(":")
    name, _, revision = name.partition("@")
    repository = hub_repository(name) if kind == "timm" else name
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, allow_patterns=[*CARDS, *SAFETENSORS]))
        if not any(folder.glob(SAFETENSORS[0])):
            folder = Path(snapshot_download(repository, revision=folder.name, allow_patterns=[*CARDS, *PICKLED]))
    except errors.LocalEntryNotFoundError:
        raise UserError(
            f"{source} is not in the Hugging Face cache, and the hub cannot be reached: download it elsewhere (hf download), copy "
            "it here and give the folder"
        ) from None
    except errors.GatedRepoError:
        raise UserError(f"{source} asks for its terms to be accepted: do that on its page, then log in (hf auth login)") from None
    except (errors.HfHubHTTPError, errors.HFValidationError, errors.RevisionNotFoundError) as error:
        raise UserError(f"{source} cannot be downloaded ({first_line(error)}): check its name and revision") from None
    return Downloaded(folder, folder.name, read_license(folder / "README.md"))


def read_license(card: Path) -> str | None:
    """Return the license that the head of a model card names."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    if not card.is_file():
        return None
    with suppress(ValueError, YAMLError):  # of a damaged card
        found = (metadata_load(card) or {}).get("license")
        return found if isinstance(found, str) else None
    return None
