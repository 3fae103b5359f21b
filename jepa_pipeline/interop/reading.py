"""Files and folders of published weights, without running code that is in them."""

import errno
import json
import pickle
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy._core.multiarray import scalar
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from jepa_pipeline.config.encoder_card import CARD
from jepa_pipeline.config.errors import UserError, first_line
from jepa_pipeline.config.published import ImportSettings
from jepa_pipeline.interop.published import Published

WHOLE = ("model.safetensors", "pytorch_model.bin")
"""Names of the weights in a folder; where they are several files, of their index with `.index.json` at the end."""
SUFFIXES = (".safetensors", ".pth.tar", ".pth", ".pt", ".bin", ".ckpt")
PREPROCESSORS = ("preprocessor_config.json", "video_preprocessor_config.json")
PREFIXES = re.compile(r"(?:_orig_mod\.|module\.|backbone\.)+")
"""Put in front of every name by torch.compile, DistributedDataParallel and wrappers of masks, in any order."""
TARGETS = ("ema_encoder", "target_encoder")
"""The average of the weights over the training, in official checkpoints; a distilled one has its teacher as target_encoder."""
ALONE = ("state_dict", "model", "model_state_dict")
"""Entries of a checkpoint that hold its only network."""
PREDICTOR, ONLINE = "predictor", "encoder"
DTYPES = {torch.float16: "float16", torch.bfloat16: "bfloat16", torch.float32: "float32", torch.float64: "float64"}
DAMAGE = (SafetensorError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError)
"""Raised by torch and safetensors for files that are not what they have written."""
BUFFER = 1 << 22
Progress = Callable[[Iterator[bytes], int], Iterable[bytes]]
"""Passes the blocks of a file on, given their number, and may show how far it is."""
Tensors = Mapping[str, Tensor]


class Weights(NamedTuple):
    """A network of a source, the type of its weights and the hash of its files."""

    published: Published
    dtype: str
    sha256: str


def read_weights(source: Path, which: str | None, given: ImportSettings, progress: Progress) -> Weights:
    """Return a network of a file, or of a folder with a file of weights.

    Args:
        source: the file or folder.
        which: name of the network in a checkpoint of several; None: the target encoder, or the only one.
        given: what the user says of it.
        progress: passes on the blocks of a file that are hashed.

    Raises:
        UserError: there are no weights, a file is damaged or would run code, or there is no such network.
    """
    files, config = find_files(source)
    digest = hash_files(files, progress)
    networks: dict[str, Tensors] = {}
    for path in files:
        for name, tensors in networks_of(path, load_safely(path)).items():
            known = networks.setdefault(name, {})
            if twice := known.keys() & tensors.keys():
                raise UserError(f"{source} holds {min(twice)} in two files: keep one of them")
            networks[name] = {**known, **tensors}
    network = choose_network(source, [*networks], which)
    tensors, dtype = checked(source, strip_prefixes(source, networks[network]))
    beside = {name: strip_prefixes(source, networks[name]) for name in (PREDICTOR, ONLINE) if name in networks and name != network}
    found = Published(str(source), tensors, config, given, network, beside.get(PREDICTOR, {}), beside.get(ONLINE, {}))
    return Weights(found._replace(preprocessor=read_preprocessor(source)), dtype, digest)


def find_files(source: Path) -> tuple[list[Path], dict[str, Any]]:
    """Return the files of weights, and the configuration beside them where the source is a folder.

    Raises:
        UserError: there is none, or several.
    """
    if not source.exists():
        raise UserError(f"there is no {source}: give a file or folder of weights, or a name on a hub, such as hf:OWNER/NAME")
    if not source.is_dir():
        return [source], {}
    config = read_json(source / CARD)
    if "encoder" in config and "sha256" in config:
        raise UserError(f"{source} is an encoder of this package already: give it to `jepa probe` and the other commands as it is")
    for name in WHOLE:
        if (source / name).is_file():
            return [source / name], config
        if (source / f"{name}.index.json").is_file():
            return listed_files(source / f"{name}.index.json"), config
    files = sorted(path for path in source.iterdir() if path.name.endswith(SUFFIXES) and path.is_file())
    if not files:
        raise UserError(
            f"{source} holds no weights ({', '.join(WHOLE)} or a file that ends in {', '.join(SUFFIXES)}): put them there, "
            "or name the file or folder that holds them"
        )
    if len(files) > 1:
        raise UserError(f"{source} holds {len(files)} files of weights ({files[0].name}, {files[1].name}, ...): name one of them")
    return files, config


def listed_files(index: Path) -> list[Path]:
    """Return the files that an index names, which are all beside it.

    Raises:
        UserError: the index is none, or a file is missing or elsewhere.
    """
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise UserError(f"{index} has no weight_map with the files of weights: copy the folder again")
    files = [index.parent / name for name in sorted({*names.values()})]
    for path in files:
        if path.parent != index.parent or path.name in ("", ".."):
            raise UserError(f"{index} names {path}, which is not beside it: copy the folder again")
        if not path.is_file():
            raise UserError(f"{index} names {path.name}, which is not there: copy the folder again")
    return files


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a file, an empty one if there is no file.

    Raises:
        UserError: it holds something else.
    """
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON ({first_line(error)}): copy it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path} holds no JSON object: copy it again")
    return values


def read_preprocessor(source: Path) -> dict[str, Any]:
    """Return what transformers wrote beside weights of how images or videos are prepared; empty where there is nothing."""
    return next((found for name in PREPROCESSORS if (found := read_json(source / name))), {})


def hash_files(files: Sequence[Path], progress: Progress) -> str:
    """Return the SHA-256 of a file; of several, that of their names and hashes."""
    hashes = list[str]()
    for path in files:
        digest = sha256()
        with path.open("rb") as file:
            for block in progress(iter(lambda file=file: file.read(BUFFER), b""), ceil(path.stat().st_size / BUFFER)):
                digest.update(block)
        hashes.append(digest.hexdigest())
    if len(files) == 1:
        return hashes[0]
    return sha256("".join(f"{path.name} {text}\n" for path, text in zip(files, hashes, strict=True)).encode()).hexdigest()


def load_safely(path: Path) -> Any:
    """Return what a file of safetensors or of torch.save holds, without running code.

    Raises:
        UserError: it is neither, is damaged, or asks for more than tensors and numbers.
    """
    with path.open("rb") as file:
        start = file.read(9)
    if start[8:] != b"{" and start[:1] == pickle.PROTO and start[1:2] > b"\x03":
        raise UserError(
            f"{path} is a pickle that torch.save has not written, and reading it could run code: ask its publisher for "
            "safetensors, or save its tensors alone with torch.save where you trust it"
        )
    try:
        if start[8:] == b"{":  # safetensors: the length of the header, and the header, a JSON object
            return load_file(path)
        with torch.serialization.safe_globals(allowed_names()), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of pickles that another library has written: what follows is an error
            return torch.load(path, map_location="cpu", weights_only=True, mmap=start.startswith(b"PK\x03\x04"))
    except pickle.UnpicklingError as error:
        raise refused(path, error) from None
    except DAMAGE as error:
        raise damaged(path, first_line(error)) from None
    except OSError as error:
        if error.errno != errno.EINVAL:  # which the search for the end of a truncated file leads to
            raise
        raise damaged(path, "it ends too early") from None


def damaged(path: Path, reason: str) -> UserError:
    """Return the sentence for a file that cannot be read. Only torch's and safetensors' first sentence says why, if any does."""
    why = reason.partition(". ")[0].rstrip(".")
    return UserError(f"{path} is damaged, or no file of weights that safetensors or torch.save has written ({why}): copy it again")


def allowed_names() -> list[Any]:
    """Return the names that checkpoints need whose losses or steps are scalars of numpy. They only make numbers."""
    numbers = [type(np.dtype(code)) for code in (*np.typecodes["AllInteger"], *np.typecodes["Float"], "?")]
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *numbers]  # the second: numpy 1's


def refused(path: Path, error: pickle.UnpicklingError) -> UserError:
    """Return the sentence for a file that torch does not read without running code."""
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", str(error))
    if found is None:
        return damaged(path, first_line(Exception(str(error).rpartition("error: ")[2])))
    return UserError(
        f"{path} is not read, because it names {found[1]}, which is not a tensor or number, and could run code: ask its publisher "
        "for safetensors, or save its tensors alone where you trust it"
    )


def networks_of(path: Path, loaded: Any) -> dict[str, Tensors]:
    """Return the networks that a file holds, by name: a single one is called model.

    Raises:
        UserError: it holds none.
    """
    if not isinstance(loaded, dict):
        raise UserError(f"{path} holds a {type(loaded).__name__} and no tensors by name")
    if is_network(loaded):
        return {"model": loaded}
    networks = {name: value for name, value in loaded.items() if isinstance(name, str) and is_network(value)}
    if networks:
        return networks
    mixed = next((name for name, value in loaded.items() if isinstance(value, Tensor)), None)
    other = next((name for name, value in loaded.items() if not isinstance(value, Tensor)), None)
    if mixed is not None:
        raise UserError(f"{path} holds {other}, which is not a tensor, among tensors such as {mixed}: save its tensors alone")
    raise UserError(f"{path} holds no tensors by name")


def is_network(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(v, Tensor) and isinstance(k, str) for k, v in value.items())


def choose_network(source: Path, names: Sequence[str], which: str | None) -> str:
    """Return the name of the network to take: the target encoder by default, which the papers evaluate.

    Raises:
        UserError: there is none of that name, or several without an encoder.
    """
    held = f"{source} holds {' and '.join(names)}"
    if which is not None:
        wanted = TARGETS if which == "target_encoder" else (which,)
        found = [name for name in wanted if name in names]
        if not found:
            raise UserError(f"{held}, but no {which}: name another network with --which, or leave it out")
        return found[0]
    encoders = [name for name in names if name not in (PREDICTOR,)]
    for name in TARGETS:
        if name in names:
            return name
    if len(encoders) == 1 and encoders[0] in ("model", *ALONE):
        return encoders[0]
    raise UserError(f"{held}, but no {TARGETS[-1]}: name the network to take with --which")


def strip_prefixes(source: Path, tensors: Tensors) -> Tensors:
    """Return tensors without what wrappers have put in front of their names.

    Raises:
        UserError: two get the same name.
    """
    stripped = dict[str, Tensor]()
    for name, tensor in tensors.items():
        short = PREFIXES.sub("", name, count=1) if PREFIXES.match(name) else name
        if short in stripped:
            raise UserError(f"{source} holds {short} twice, once as {name}: it is not a single network")
        stripped[short] = tensor
    return stripped


def checked(source: Path | str, tensors: Tensors) -> tuple[Tensors, str]:
    """Return tensors in fp32, those of integers as they are, and the types in which they were.

    Raises:
        UserError: a tensor has an unsupported dtype, such as a quantized one, or is not finite.
    """
    for name, tensor in tensors.items():
        whole = tensor.dtype in DTYPES or tensor.dtype in (torch.int64, torch.int32, torch.bool, torch.uint8)
        if not whole or tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
            raise UserError(
                f"{source} holds {name} as {str(tensor.dtype).removeprefix('torch.')} ({tensor.layout}), which is not read: give "
                "weights in float32, float16 or bfloat16"
            )
    floating = {name: tensor for name, tensor in tensors.items() if tensor.dtype in DTYPES}
    dtypes = sorted({DTYPES[tensor.dtype] for tensor in floating.values()})
    converted = {name: tensor.detach().float() if name in floating else tensor for name, tensor in tensors.items()}
    if broken := next((name for name in floating if not converted[name].isfinite().all()), None):
        raise UserError(f"{source} holds NaN or infinite values in {broken}: copy it again, or take another file")
    return converted, " and ".join(dtypes)
