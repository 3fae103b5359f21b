"""What a server does wrong is tried again, told in one sentence, and never believed."""

import hashlib
import re
import socket
import sys
import time
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from jepa_pipeline.commands.check_shards import check
from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data import remote
from jepa_pipeline.data.manifest import MANIFEST, Shard, load_manifest, read_manifest
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.redaction import redact

TAR = "shard-000000.tar"
ON = "then run the same command again"


@pytest.fixture
def shards(url, tmp_path):
    return Shards(url, cache=CacheConfig(folder=tmp_path / "cache"))


def test_the_samples_are_those_of_the_folder(shards, folder, server):
    local = Shards(folder)
    assert [shards.read(n // 8, n % 8) for n in range(20)] == [local.read(n // 8, n % 8) for n in range(20)]
    assert load_manifest(f"{server.url}/set%20100%25/").hash() == load_manifest(folder).hash()


FAULTS = {
    "errors": [503, 500, 429],
    "cut off": ["cut", "cut", "cut"],
    "cut off, and no length said": ["unsaid"],
    "stalls": ["stall"],
    "corrupt": ["corrupt", "corrupt"],
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
def test_what_passes_is_tried_again(shards, server, faults):
    server.faults[TAR] = list(faults)
    began = time.monotonic()
    assert shards.read(0, 3).key == "k03"
    assert server.gets[TAR] == len(faults) + 1
    assert time.monotonic() - began < server.stall_s / 2


def test_a_transfer_may_take_longer_than_the_timeout(shards, server, monkeypatch):
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.45)
    server.faults[TAR] = ["slow"]
    shards.read(0, 0)
    assert server.gets[TAR] == 1


@pytest.mark.parametrize(
    ("fault", "tries", "sentence"),
    [
        (404, 1, r"in 1 try \(it is not there\): check that the URL is right"),
        (403, 1, r"in 1 try \(the server answered 403\): check that the URL is right"),
        (503, 4, r"in 4 tries \(the server answered 503\): check that its server works"),
        ("cut", 4, r"in 4 tries \("),
        ("unsaid", 4, r"in 4 tries \(\d+ bytes came, the manifest says \d+\)"),
        ("stall", 4, r"in 4 tries \(the server was silent"),
        ("endless", 4, r"in 4 tries \(more than \d+ bytes came, which the manifest says\)"),
        ("corrupt", 4, r"in 4 tries \(the SHA-256 of what came is [0-9a-f]{12}, the manifest says [0-9a-f]{12}\)"),
    ],
)
def test_what_does_not_pass_is_one_sentence(shards, server, tmp_path, fault, tries, sentence):
    server.forever[TAR] = fault
    with pytest.raises(UserError, match=sentence) as caught:
        shards.read(0, 0)
    assert not isinstance(caught.value, SampleError), "it is no damage that may be skipped"
    text = str(caught.value)
    assert text.startswith(f"{server.url}/set%20100%25/{TAR} could not be fetched") and text.endswith(ON) and "\n" not in text
    assert server.gets[TAR] == tries
    assert not list((tmp_path / "cache").rglob("*.partial"))
    assert shards.read(1, 0).key == "k08", "the others are still there"


def test_a_server_that_is_not_there_is_one_sentence(server):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"127.0.0.1:{port}/x/manifest.json could not be fetched in 4 tries"):
        read_manifest(f"http://127.0.0.1:{port}/x")


def test_a_url_without_a_manifest_is_one_sentence(server, folder):
    with pytest.raises(UserError, match=r"nowhere/manifest.json could not be fetched in 1 try \(it is not there\)"):
        read_manifest(f"{server.url}/nowhere")
    (folder / MANIFEST).write_text("<html>")
    with pytest.raises(UserError, match=r"manifest.json is not readable JSON"):
        read_manifest(f"{server.url}/set 100%25")


def test_a_manifest_without_an_end_is_one_sentence(url, server, monkeypatch):
    monkeypatch.setattr("jepa_pipeline.data.remote.MANIFEST_BYTES", 100_000)
    server.forever[MANIFEST] = "endless"
    with pytest.raises(UserError, match=r"manifest.json has more than 100,000 bytes, so it is not a manifest: check the URL$"):
        read_manifest(url)
    monkeypatch.setattr("jepa_pipeline.data.remote.MANIFEST_BYTES", 1 << 40)
    monkeypatch.setattr("jepa_pipeline.data.remote.MANIFEST_S", 0.01)
    with pytest.raises(UserError, match=r"manifest.json sent [\d,]+ bytes in 0.01 s and has not ended: check that its server"):
        read_manifest(url)
    assert server.gets[MANIFEST] == 2, "another try would not end either"


def test_a_transfer_that_hardly_moves_is_given_up(shards, server, monkeypatch):
    monkeypatch.setattr("jepa_pipeline.data.remote.SLOW_S", 0.0)
    monkeypatch.setattr("jepa_pipeline.data.remote.SLOW_BYTES_PER_S", 1e9)
    with pytest.raises(UserError, match=r"in 4 tries \(\d+ bytes came in 0 s\)"):
        shards.read(0, 0)


def test_check_tries_a_server_that_is_busy_again(url, server):
    server.faults[TAR] = [503, 500]
    assert check(url, workers=1).ok


def test_check_reads_no_more_of_a_shard_than_it_may_have(url, server):
    server.forever[TAR] = "endless"
    (problem,) = check(url, workers=1).problems
    assert re.search(r"shard-000000.tar: it has at least \d+ bytes, the manifest says \d+", problem)


def test_a_manifest_that_is_deep_is_one_sentence(folder):
    (folder / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"manifest.json is not readable JSON"):
        read_manifest(folder)


def test_the_pauses_double_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 1)
    for tried in range(1, 20):
        middle = min(remote.LONGEST_PAUSE_S, 2 ** (tried - 1))
        assert all(0.5 * middle <= remote.backoff_s(tried) <= 1.5 * middle for _ in range(20))


@pytest.mark.parametrize(
    ("location", "sentence"),
    [
        ("pipe:cat x.tar", r"pipe:cat x.tar runs a program; shards are data: give a folder or URL"),
        ("ftp://host/x", "has the scheme ftp: give a folder, or a URL of http, https, s3, gs, hf"),
        ("file:///data/x", "has the scheme file"),
        ("simplecache::http://host/x", "has the scheme simplecache::http"),
    ],
)
def test_what_is_no_place_of_data_is_refused(location, sentence):
    for read in (Shards, load_manifest):
        with pytest.raises(UserError, match=sentence):
            read(location)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("hf", "huggingface_hub")])
def test_a_missing_package_is_named(monkeypatch, scheme, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.core", None)
    for name in ("s3", "gs", "hf"):
        monkeypatch.delitem(_registry, name, raising=False)
    remote.connect.cache_clear()
    with pytest.raises(UserError, match=rf"^{scheme}://bucket/x/manifest.json needs a package .* pip install {package}$"):
        Shards(f"{scheme}://bucket/x")


def test_other_schemes_go_the_same_way(monkeypatch, folder, tmp_path):
    """A store of the same interface stands in for S3, which needs an account."""

    class Store(MemoryFileSystem):
        protocol = "s3"
        store: dict = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path):
            return "/" + path.removeprefix("s3://").lstrip("/")

    fsspec.register_implementation("s3", Store, clobber=True)
    remote.connect.cache_clear()
    try:
        Store().put(f"{folder}/", "s3://bucket/set", recursive=True)
        shards = Shards("s3://bucket/set/", cache=CacheConfig(folder=tmp_path / "cache"))
        assert shards.read(2, 3) == Shards(folder).read(2, 3)
        Store().rm(f"s3://bucket/set/{TAR}")
        with pytest.raises(UserError, match=rf"^s3://bucket/set/{TAR} could not be fetched in 1 try \(it is not there\)"):
            shards.read(0, 0)
    finally:
        _registry.pop("s3")
        remote.connect.cache_clear()


def test_a_file_is_joined_to_a_url_and_to_nothing_else():
    assert remote.join_url("s3://bucket/a/", "x.tar") == "s3://bucket/a/x.tar"
    assert remote.join_url("https://host/a?token=1", "x 1%.tar") == "https://host/a/x%201%25.tar?token=1"
    assert remote.join_url("http://host", "@evil:80?#.tar") == "http://host/%40evil%3A80%3F%23.tar"
    assert redact("https://me:secret@host:1/a?token=1") == "https://host:1/a"


def rewrite(folder: Path, location: str) -> None:
    manifest = read_manifest(folder).model_copy(update={"location": location})
    (folder / MANIFEST).write_text(manifest.model_dump_json())


@pytest.mark.parametrize("location", ["http://elsewhere/x", "/etc", "pipe:ls", "s3://bucket/x"])
def test_a_manifest_from_a_url_names_no_other_host(url, folder, location):
    rewrite(folder, location)
    with pytest.raises(UserError, match=r"not on its own host|runs a program"):
        Shards(url)


def test_a_manifest_from_a_url_may_name_its_own_host(server, url, folder, tmp_path):
    (folder.parent / "tars").mkdir()
    for tar in folder.glob("*.tar"):
        tar.rename(folder.parent / "tars" / tar.name)
    rewrite(folder, f"{server.url}/tars")
    assert Shards(url, cache=CacheConfig(folder=tmp_path / "cache")).read(1, 1).key == "k09"


def test_a_local_manifest_of_remote_shards_has_its_index_files_beside_it(server, url, folder, tmp_path):
    local = tmp_path / "local"
    local.mkdir()
    for path in folder.glob("*.json"):
        (local / path.name).write_bytes(path.read_bytes())
    rewrite(local, url)
    load_manifest(local)
    shards = Shards(local, cache=CacheConfig(folder=tmp_path / "cache"))
    assert shards.read(2, 0) == Shards(folder).read(2, 0)
    assert not list((tmp_path / "cache").rglob("*.json")) and server.gets[MANIFEST] == 0
    (local / "shard-000001.index.json").unlink()
    with pytest.raises(SampleError, match=r"sample number 5 of http.*shard-000001.tar cannot .*index.json is missing or damaged"):
        shards.read(1, 5)


def test_a_local_manifest_of_shards_in_another_folder(folder, tmp_path):
    (folder / "tars").mkdir()
    for tar in folder.glob("*.tar"):
        tar.rename(folder / "tars" / tar.name)
    rewrite(folder, "tars")
    load_manifest(folder)
    assert Shards(folder).read(2, 3).key == "k19"
    (folder / "tars" / TAR).unlink()
    with pytest.raises(UserError, match=f"tars lacks {TAR}"):
        load_manifest(folder)


def test_what_is_no_tar_is_damage(server, folder, tmp_path):
    """It came whole, so it was no better when its manifest was made."""
    manifest = read_manifest(folder)
    data = b"no tar at all"
    (folder / TAR).write_bytes(data)
    first = Shard(TAR, 8, len(data), hashlib.sha256(data).hexdigest())
    changed = manifest.model_copy(update={"shards": (first, *manifest.shards[1:])})
    (folder / MANIFEST).write_text(changed.model_dump_json())
    shards = Shards(f"{server.url}/set%20100%25", cache=CacheConfig(folder=tmp_path / "cache"))
    for _ in range(3):
        with pytest.raises(SampleError, match=r"sample number 1 of .* \(its index lists 0 samples, the manifest 8\)"):
            shards.read(0, 1)
    assert server.gets[TAR] == 1


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://host/a/b", "https://host/a/b"),
        ("https://us:p%40w@host/a?token=abc#x", "https://host/a"),
        ("data.train=https://host/a?token=abc", "data.train=https://host/a"),
        ("data.train=[{path: https://u:p@host/a?t=1, weight: 2}, b]", "data.train=[{path: https://host/a, weight: 2}, b]"),
        ("/a/folder?with#signs@odd", "/a/folder?with#signs@odd"),
        ("s3://bucket/key", "s3://bucket/key"),
        ('{"path": "https://u:p@host/a?t=1", "weight": 2}', '{"path": "https://host/a", "weight": 2}'),
    ],
)
def test_what_is_printed_and_kept_has_no_secrets(text, shown):
    assert redact(text) == shown
