"""Verbs over a URL do what they do over a folder."""

import pytest
from rich.console import Console

from jepa_pipeline.commands.pretrain import pretrain
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.files import read_json_lines
from jepa_pipeline.probes.labeled_data import open_labeled_sets


def test_a_run_over_a_url_is_the_run_over_the_folder(tiny, folder, url, tmp_path, server):
    """Data is known by its content: a run may even be begun on one and ended on the other."""

    def run(name, train, *options):
        options = ["log.hashes_every_steps=1", f"data.cache.folder={tmp_path / 'cache'}", f"data.train={train}", *options]
        config = tiny(f"name={name}", *options)
        pretrain(config, Console(quiet=True))
        return read_json_lines(config.folder / "hashes.jsonl")

    local, far = run("local", folder), run("far", url, "data.workers=2")
    assert local == far
    assert all(count == 1 for file, count in server.gets.items() if file.endswith(".tar")), "each shard was fetched once"
    run("far", folder)


def test_a_probe_reads_a_url(url):
    with pytest.raises(UserError, match="share shards"):
        open_labeled_sets(url, url)
    with pytest.raises(UserError, match=r"train/manifest.json could not be fetched in 1 try"):
        open_labeled_sets(url, None)


def test_a_run_keeps_a_token_only_where_it_goes_on_from(tiny, url, tmp_path):
    path = f"{url}?token=abc"
    config = tiny(f"data.cache.folder={tmp_path / 'cache'}", f"data.train=[{{path: '{path}', weight: 3}}]")
    pretrain(config, Console(quiet=True))
    holding = {path.name for path in config.folder.rglob("*") if path.is_file() and b"token=abc" in path.read_bytes()}
    assert holding == {"config.yaml"}
