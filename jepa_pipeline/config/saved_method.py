"""The card of an imported JEPA: `method.json` beside its encoder, for the other networks in `method.safetensors`."""

from pathlib import Path

from pydantic import Field, ValidationError

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.methods import MethodConfig
from jepa_pipeline.config.section import Section

METHOD, METHOD_WEIGHTS = "method.json", "method.safetensors"


class SavedMethod(Section):
    """The method whose target encoder is in the same folder, and the hash of its other networks."""

    method: MethodConfig = Field(discriminator="name", description="The method: sizes of its networks, and its masks.")
    sha256: str = Field(description="SHA-256 of the file of its other networks, in hex.")


def read_saved_method(folder: Path) -> SavedMethod:
    """Return the card of an imported JEPA.

    Raises:
        UserError: there is none, or it is invalid.
    """
    path = folder / METHOD
    if not path.is_file():
        raise UserError(
            f"{folder} holds an encoder without a predictor: import a checkpoint that has one with --predictor, or give a run"
        )
    try:
        return SavedMethod.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{path} is damaged ({'.'.join(map(str, first['loc']))}: {first['msg']}): import it again") from None
