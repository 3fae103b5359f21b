"""Published weights as an encoder: converted by their family, checked against the network, and described on a card."""

from collections.abc import Mapping

import torch
from torch import Tensor

from jepa_pipeline.config.clip import ClipConfig
from jepa_pipeline.config.encoder_card import EncoderCard, Source
from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.networks import EncoderConfig
from jepa_pipeline.interop.published import Family, Imported, Published
from jepa_pipeline.interop.reading import Weights
from jepa_pipeline.models.build import build_encoder
from jepa_pipeline.version import __version__


def convert(family: Family, published: Published) -> Imported:
    """Return published weights as an encoder, with what the user gave, after comparing them with the network one to one.

    Raises:
        UserError: a tensor is unknown, missing or of another shape; or a given value does not belong to the network.
    """
    try:
        imported = apply_given(published, family.convert(published))
    except (IndexError, RuntimeError) as error:  # of torch, for tensors that it cannot slice or join
        raise UserError(
            f"the tensors of {published.path} do not have the shapes of {family.name} ({first_line(error)}): copy it again, or "
            "name its layout with --as"
        ) from None
    with torch.device("meta"):  # names and shapes only
        network = build_encoder(imported.config).timm_module()
    check_fits(published.path, imported.config.describe(), network.state_dict(), imported.weights)
    return imported._replace(weights={name: own(tensor) for name, tensor in imported.weights.items()})


def check_fits(path: str, network: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    """Compare the tensors of a file with those of a network one to one.

    Raises:
        UserError: one is left over, missing or of another shape.
    """
    if left := next((name for name in found if name not in expected), None):
        raise UserError(
            f"{path} holds {left} of shape {list(found[left].shape)}, which {network} does not have: name its layout with --as"
        )
    for name, tensor in expected.items():
        if name not in found:
            raise UserError(
                f"{path} lacks {name} of shape {list(tensor.shape)}, which {network} has: copy it again, or name its layout "
                "with --as"
            )
        if found[name].shape != tensor.shape:
            raise UserError(
                f"{name} in {path} has the shape {list(found[name].shape)}, but in {network} it is {list(tensor.shape)}: name "
                "its layout with --as, or another of its sizes"
            )


def own(tensor: Tensor) -> Tensor:
    """Return a copy that shares memory with no other tensor, as safetensors writes them; floating ones in fp32."""
    tensor = tensor.detach().clone(memory_format=torch.contiguous_format)
    return tensor.float() if tensor.is_floating_point() else tensor


def apply_given(published: Published, imported: Imported) -> Imported:
    """Return an encoder with the preprocessing that the user gave, after checking the given sizes against the network.

    Raises:
        UserError: a given value does not belong to the network.
    """
    given, config = published.given, imported.config
    for name in ("num_heads", "image_size", "frames"):
        value, here = getattr(given, name), own_size(config, name)
        if value is not None and value != here:
            shown = "is fixed by its name" if here is None else f"is {here}"
            raise UserError(f"{name}={value} is not that of {published.path}, where it {shown}: leave it out")
    if (given.fps or given.stride) and not config.modality.has_time:
        raise UserError(f"{published.path} is an image encoder, which has no rate of frames: leave fps and stride out")
    if given.fps and given.stride:
        raise UserError("fps and stride are both given: leave one of them out")
    clip = imported.clip
    if given.fps or given.stride:
        other = (clip or ClipConfig.model_validate({})).model_dump(exclude={"fps", "stride"})
        clip = ClipConfig.model_validate({**other, "fps": given.fps, "stride": given.stride})
    mean, std = (given.mean or imported.mean, given.std or imported.std)
    check_statistics(published.path, config.in_channels, mean, std)
    return imported._replace(mean=mean, std=std, clip=clip)


def check_statistics(path: str, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    """Check mean and std: one finite value per channel.

    Raises:
        UserError: they do not fit.
    """
    if len(mean) != channels or len(std) != channels:
        counted = "1 channel" if channels == 1 else f"{channels} channels"
        raise UserError(
            f"{path} takes images of {counted}, but there are {len(mean)} of mean and {len(std)} of std: give "
            f"mean=[...] and std=[...] of its training, with {channels} of each"
        )
    if not torch.tensor([*mean, *(1 / value for value in std)]).isfinite().all():
        raise UserError(
            f"mean {list(mean)} and std {list(std)} of {path} are beyond what fp32 holds: give mean=[...] and "
            "std=[...] of its training"
        )


def own_size(config: object, name: str) -> int | None:
    if name == "num_heads":
        return config.size.num_heads if isinstance(config, EncoderConfig) else None
    return getattr(config, name)


def describe(
    name: str, family: Family, source: str, revision: str | None, weights: Weights, imported: Imported, license: str
) -> EncoderCard:
    """Return the card of an imported encoder, which was not trained here: step, samples and hashes of a run are 0 and empty.

    Args:
        name: of the encoder, in tables.
        family: that converted it.
        source: name of the file or folder, or on a hub.
        revision: on the hub.
        weights: what was read.
        imported: what became of it.
        license: as the user said.
    """
    network = weights.published.network
    return EncoderCard(
        encoder=imported.config,
        kept=imported.kept or ("online" if network == "encoder" else "target"),
        mean=imported.mean,  # pyright: ignore[reportArgumentType]
        std=imported.std,  # pyright: ignore[reportArgumentType]
        bits=weights.published.given.bits,
        clip=imported.clip,
        source=Source(
            path=source,
            revision=revision,
            sha256=weights.sha256,
            family=family.name,
            network=network,
            dtype=weights.dtype,
            license=license,
            notes=imported.notes,
        ),
        name=name,
        method=family.name,
        step=0,
        samples=0,
        config_hash="",
        data_hash="",
        version=__version__,
    )
