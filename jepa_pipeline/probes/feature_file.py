"""Files of features: Parquet, or a numpy array with a list of its rows beside it."""

import json
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.config.output_place import check_place
from jepa_pipeline.probes.feature_rows import FeatureRows, Row
from jepa_pipeline.probes.unfinished_features import check_replaced, written_files
from jepa_pipeline.redaction import redact

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
    check_replaced(out)
    check_place(out)


def write_features(out: Path, rows: FeatureRows, metadata: Mapping[str, Any]) -> None:
    """Write all rows to a file, and to what belongs beside it. metadata: values that JSON can hold."""
    groups = rows.groups(max(1, GROUP_BYTES // (4 * rows.width)))
    (write_parquet if out.suffix == ".parquet" else write_npy)(out, rows, groups, metadata)


Groups = Iterator[tuple[list[Row], Float32[np.ndarray, "S D"]]]


def write_parquet(out: Path, rows: FeatureRows, groups: Groups, metadata: Mapping[str, Any]) -> None:
    """Write the columns name, label, feature (null for a damaged sample) and error, a group of rows at a time."""
    import pyarrow
    from pyarrow import parquet

    feature = pyarrow.list_(pyarrow.float32(), rows.width)
    columns = {"name": pyarrow.string(), "label": pyarrow.int64(), "feature": feature, "error": pyarrow.string()}
    if metadata["data"]["classes"] is None:
        del columns["label"]
    schema = pyarrow.schema(columns, metadata={METADATA: json.dumps(metadata)})
    with parquet.ParquetWriter(out, schema) as writer:
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


def write_npy(out: Path, rows: FeatureRows, groups: Groups, metadata: Mapping[str, Any]) -> None:
    """Write an array (NaN for a damaged sample), beside it the list of its rows as JSON lines, and the metadata."""
    _, names, about = written_files(out)
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows.done, rows.width)}
    # One write after the other: on a full disk a memory map ends the process with SIGBUS.
    with out.open("wb") as array, names.open("w") as lines:
        np.lib.format.write_array_header_1_0(array, header)
        for group, values in groups:
            array.write(values.astype("<f4", copy=False).tobytes())
            for row in group:
                lines.write(json.dumps({"name": row.key, "label": row.label, "error": row.error}) + "\n")
    about.write_text(redact(json.dumps(dict(metadata), indent=1)) + "\n")
