"""Other versions of transformers, in environments of their own: what they write is read, and what is exported they read."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from test_transformers_in import NETWORKS, TOLERANCE, difference_to, given_for, import_folder, input_of
from test_transformers_out import ENCODERS, make_run

from jepa_pipeline.commands.export import export

VERSIONS = {"4.57": ["transformers==4.57.6", "huggingface-hub==0.36.0", "tokenizers==0.22.1"]}
PROGRAM = """
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from test_transformers_in import NETWORKS, input_of, make, tokens_of, write
import transformers

version, place, *exports = sys.argv[1:]
assert transformers.__version__.startswith(version), transformers.__version__
for name in NETWORKS:
    network, folder = make(name), Path(place) / name
    write(folder / "folder", network)
    save_file({"tokens": tokens_of(network, input_of(name))}, folder / "tokens.safetensors")
for folder in map(Path, exports):
    model, report = transformers.AutoModel.from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    stored = load_file(folder / "parity/outputs.safetensors")
    difference = (tokens_of(model.eval(), stored["pixels"]) - stored["last_hidden_state"]).abs().max()
    print(type(model).__name__, float(difference))
    assert difference <= 1e-5
"""


@pytest.mark.slow
@pytest.mark.parametrize("version", VERSIONS)
def test_another_version_of_transformers_reads_and_writes_the_same(tmp_path, version, exports_read_here):
    packages, here = tmp_path / "packages", Path(__file__)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", packages, "--no-deps", *VERSIONS[version]], check=True
    )
    folders = [str(export(make_run(tmp_path / name, config), to="hf")) for name, config in ENCODERS.items()]
    path = os.pathsep.join(map(str, (packages, here.parent, here.parents[2])))
    command = [sys.executable, "-c", PROGRAM, version, str(tmp_path / "networks"), *folders]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    for name in NETWORKS:
        folder = tmp_path / "networks" / name
        tokens, encoder = (
            load_file(folder / "tokens.safetensors")["tokens"],
            import_folder(folder / "folder", given=given_for(name)),
        )
        found = difference_to(tokens, encoder, input_of(name))
        print(name, found)
        assert found <= TOLERANCE, name
