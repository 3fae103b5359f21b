"""Files of features: Parquet, or a numpy array with a list of its rows beside it."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.files import PARTIAL, atomic_path, atomic_write
from jepa_pipeline.probes.feature_rows import FeatureRows, Row, check_unfinished, unfinished_folder

GROUP_BYTES = 2**25
"""Bytes of the features of a row group, which are in memory at a time."""
METADATA = b"jepa_pipeline"
"""Key of the metadata in the schema of a Parquet file; its value is JSON."""


def check_file(out: Path) -> None:
    """Check that a file of features can be written, before anything is computed.

    Raises:
        UserError: its suffix is none that is known, a package is missing, a file that would be written is there already, or its
            folder cannot be made.
    """
    if out.suffix not in (".parquet", ".npy"):
        raise UserError(f"--out {out} ends in {out.suffix or 'no suffix'}: name a file that ends in .parquet or .npy")
    if out.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise UserError(f"--out {out} is a Parquet file, but pyarrow is not installed: pip install pyarrow, or name a .npy file")
    there = [path for path in written_files(out) if os.path.lexists(path)]  # also links that lead nowhere, which would be replaced
    beside = " and ".join(str(path) for path in there if path != out)
    if out in there:
        raise UserError(f"--out {out} is there already: delete it{beside and f', and {beside}'}, or name another file")
    if there:
        raise UserError(f"--out {out} would replace {beside}: delete or move what is there, or name another file")
    check_folder(out)
    check_unfinished(out)


def written_files(out: Path) -> list[Path]:
    """Return the paths of all files that write_features writes."""
    return [out] if out.suffix == ".parquet" else [out, out.with_suffix(".jsonl"), out.with_suffix(".json")]


def check_folder(out: Path) -> None:
    """Check that the folder of a file is there or can be made, and written to; what is made to find that out is deleted.

    Raises:
        UserError: it cannot.
    """
    above = next(path for path in out.absolute().parents if os.path.lexists(path))
    if not above.is_dir():
        raise UserError(f"--out {out} cannot be written, because {above} is not a folder: name a file in a folder")
    try:
        with tempfile.TemporaryDirectory(PARTIAL, dir=above) as folder:
            (folder / unfinished_folder(out.absolute()).relative_to(above)).mkdir(parents=True)
    except OSError as error:
        raise UserError(
            f"--out {out} cannot be written in {above} ({error.strerror}): name a file in a folder that you may write to"
        ) from None


def write_features(out: Path, rows: FeatureRows, metadata: Mapping[str, Any]) -> list[Path]:
    """Write all rows to a file, in one rename; return the paths of what was written. metadata: values that JSON can hold."""
    groups = rows.groups(max(1, GROUP_BYTES // (4 * rows.width)))
    out.parent.mkdir(parents=True, exist_ok=True)
    return (write_parquet if out.suffix == ".parquet" else write_npy)(out, rows, groups, metadata)


Groups = Iterator[tuple[list[Row], Float32[np.ndarray, "S D"]]]


def write_parquet(out: Path, rows: FeatureRows, groups: Groups, metadata: Mapping[str, Any]) -> list[Path]:
    """Write the columns name, label, feature (null for a damaged sample) and error, a group of rows at a time."""
    import pyarrow
    from pyarrow import parquet

    feature = pyarrow.list_(pyarrow.float32(), rows.width)
    columns = {"name": pyarrow.string(), "label": pyarrow.int64(), "feature": feature, "error": pyarrow.string()}
    if metadata["data"]["classes"] is None:
        del columns["label"]
    schema = pyarrow.schema(columns, metadata={METADATA: json.dumps(metadata)})
    with atomic_path(out, sync=True) as partial, parquet.ParquetWriter(partial, schema) as writer:
        for group, values in groups:
            damaged = pyarrow.array([row.error is not None for row in group])
            flat = pyarrow.array(values.reshape(-1))
            arrays = {
                "name": pyarrow.array([row.key for row in group], columns["name"]),
                "label": pyarrow.array([row.label for row in group], pyarrow.int64()),
                "feature": pyarrow.FixedSizeListArray.from_arrays(flat, type=feature, mask=damaged),
                "error": pyarrow.array([row.error for row in group], columns["error"]),
            }
            writer.write_table(pyarrow.table([arrays[name] for name in columns], schema=schema), row_group_size=len(group))
    return [out]


def write_npy(out: Path, rows: FeatureRows, groups: Groups, metadata: Mapping[str, Any]) -> list[Path]:
    """Write an array (NaN for a damaged sample), beside it the list of its rows as JSON lines, and the metadata."""
    _, names, about = written_files(out)
    with atomic_path(out, sync=True) as partial, atomic_path(names, sync=True) as partial_names:
        array = np.lib.format.open_memmap(partial, mode="w+", dtype=np.float32, shape=(rows.done, rows.width))
        start = 0
        with partial_names.open("w") as file:
            for group, values in groups:
                array[start : start + len(group)] = values
                start += len(group)
                for row in group:
                    file.write(json.dumps({"name": row.key, "label": row.label, "error": row.error}) + "\n")
        array.flush()
        atomic_write(about, json.dumps(dict(metadata), indent=1) + "\n")
    return [out, names, about]
