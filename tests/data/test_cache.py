"""A shard is fetched once for all processes of a machine, and the cache keeps its limit."""

import errno
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import time
from itertools import chain
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data import cache as cache_module
from jepa_pipeline.data.cache import Cache
from jepa_pipeline.data.manifest import Shard, read_manifest
from jepa_pipeline.data.shards import SampleError, Shards
from jepa_pipeline.files import PARTIAL, atomic_path, partial_folder

TARS = [f"shard-00000{n}.tar" for n in range(3)]
KEYS = [f"k{n:02d}" for n in range(20)]


@pytest.fixture
def config(tmp_path):
    return CacheConfig(folder=tmp_path / "cache")


def kept(config: CacheConfig) -> list[Path]:
    assert config.folder
    found = [Path(folder, name) for folder, _, names in os.walk(config.folder) for name in names]  # rglob fails where one goes
    return sorted(path for path in found if path.suffix != ".lock" and path.parent.suffix != ".partial")


def read_all(shards: Shards, first: int) -> list[str]:
    order = [(n + first) % 20 for n in range(20)]
    found = {n: shards.read(n // 8, n % 8).key for n in order}
    return [found[n] for n in range(20)]


def process(shards: Shards, first: int, queue) -> None:
    shards.prefetch(range(3))
    queue.put(read_all(shards, first))


def test_processes_fetch_each_shard_once_between_them(server, url, config):
    server.faults = {name: ["slow"] for name in TARS} | {"manifest.json": []}
    shards, context = Shards(url, cache=config), multiprocessing.get_context("fork")
    queue = context.Queue()
    processes = [context.Process(target=process, args=(shards, 5 * n, queue)) for n in range(4)]
    for each in processes:
        each.start()
    assert [queue.get(timeout=server.stall_s) for _ in processes] == [KEYS] * 4
    for each in processes:
        each.join()
    assert [server.gets[name] for name in TARS] == [1, 1, 1]
    assert read_all(Shards(url, cache=config), 0) == KEYS and server.gets[TARS[0]] == 1, "a later run finds them"


class Keys(Dataset[str]):
    def __init__(self, shards: Shards) -> None:
        self.shards = shards

    def __len__(self) -> int:
        return 20

    def __getitem__(self, number: int) -> str:
        self.shards.prefetch(range(3))
        return self.shards.read(number // 8, number % 8).key


def test_workers_that_are_forked_after_the_parent_fetched(server, url, config):
    shards = Shards(url, cache=config)
    assert shards.read(0, 0).key == "k00"
    for _ in range(2):
        batches = list(DataLoader(Keys(shards), batch_size=5, num_workers=2, multiprocessing_context="fork"))
        assert list(chain.from_iterable(batches)) == KEYS  # a hang is ended by the suite's own time limit
    assert [server.gets[name] for name in TARS] == [1, 1, 1]
    assert Shards(url, cache=config).read(1, 1).key == "k09", "the parent's connection still works"


def test_an_error_of_a_worker_is_the_same_sentence(server, url, config):
    server.forever = dict.fromkeys(TARS, 404)
    batches = iter(DataLoader(Keys(Shards(url, cache=config)), num_workers=1))
    with pytest.raises(UserError, match=r"^http.*shard-000000.tar could not be fetched in 1 try \(it is not there\)[^\n]*$"):
        next(batches)
    batches._shutdown_workers()  # pyright: ignore[reportAttributeAccessIssue] # while the server is there


def wait_for(condition) -> None:
    while not condition():  # a hang is ended by the time limit of the suite
        time.sleep(0.01)


def test_what_was_fetched_ahead_is_there(server, url, config):
    shards = Shards(url, cache=config)
    shards.prefetch([2, 0])
    wait_for(lambda: sum(path.suffix == ".tar" for path in kept(config)) == 2)
    gets = dict(server.gets)
    server.forever = dict.fromkeys(TARS, 404)
    shards.prefetch([2, 0])
    assert (shards.read(2, 0).key, shards.read(0, 1).key) == ("k16", "k01")
    assert dict(server.gets) == gets


def test_fetching_ahead_neither_blocks_nor_tells(server, url, config, capfd):
    server.forever = {TARS[0]: "stall", TARS[1]: 404}
    shards = Shards(url, cache=config)
    began = time.monotonic()
    for _ in range(1000):
        shards.prefetch([0, 1])
    assert time.monotonic() - began < server.stall_s / 2
    assert shards._prefetcher and len(shards._prefetcher.threads) <= 2
    wait_for(lambda: server.gets[TARS[1]] == 1)
    with pytest.raises(UserError, match="is not there"):
        shards.read(1, 0)
    assert capfd.readouterr() == ("", "")
    assert pickle.loads(pickle.dumps(shards)).read(2, 0).key == "k16"


ENDS = """
import sys, time
from pathlib import Path
from jepa_pipeline.config.data import CacheConfig
from jepa_pipeline.data.shards import Shards
shards = Shards(sys.argv[1], cache=CacheConfig(folder=Path(sys.argv[2])))
shards.prefetch([0, 1])
time.sleep(0.5)
print(time.time())
"""


def test_a_process_does_not_wait_for_what_it_fetches(server, url, config):
    server.forever = dict.fromkeys(TARS, "stall")
    run = subprocess.run([sys.executable, "-c", ENDS, url, str(config.folder)], capture_output=True, text=True, check=True)
    assert time.time() - float(run.stdout) < server.stall_s / 2 and run.stderr == ""
    left = [*config.folder.rglob("*.partial")]
    assert len(left) == 2
    server.forever = {}
    assert Shards(url, cache=config).read(0, 0).key == "k00"
    assert not any(path.exists() for path in left), "what it left is removed by the next one that fetches"
    assert [path.suffix for path in kept(config)] == [".json", ".tar"]


def test_a_forked_worker_ends_while_it_fetches(server, url, config):
    server.forever = {TARS[2]: "stall"}
    shards, context = Shards(url, cache=config), multiprocessing.get_context("fork")
    worker = context.Process(target=lambda: (shards.prefetch([2]), time.sleep(0.3)))
    worker.start()
    worker.join(server.stall_s / 2)
    assert worker.exitcode == 0
    server.forever = {}
    assert shards.read(2, 0).key == "k16"


def total(config: CacheConfig) -> int:
    return sum(path.stat().st_size for path in kept(config) if path.suffix == ".tar")


def test_the_least_recently_used_go_beyond_the_limit(server, url, config, folder):
    sizes = [(folder / name).stat().st_size for name in TARS]
    config = config.model_copy(update={"limit_gb": (sum(sizes) - 1) / 1e9})
    for shard in (1, 0, 1, 2):  # by the time 2 comes, 0 was not used for longest
        Shards(url, cache=config).read(shard, 0)
        time.sleep(0.02)
    assert total(config) == sizes[1] + sizes[2]
    assert len(kept(config)) == 4, "an index goes with its shard"
    Shards(url, cache=config).read(1, 0)
    assert [server.gets[name] for name in TARS] == [1, 1, 1]


def test_room_is_made_before_a_shard_comes(url, config, folder, monkeypatch):
    """The disk may have no more than the limit."""
    sizes, seen = [(folder / name).stat().st_size for name in TARS], []
    config = config.model_copy(update={"limit_gb": (sizes[0] + sizes[1]) / 1e9})
    original = cache_module.download

    def download(*arguments):
        seen.append(total(config))
        original(*arguments)

    monkeypatch.setattr(cache_module, "download", download)
    for shard in range(3):
        Shards(url, cache=config).read(shard, 0)
        time.sleep(0.02)
    assert all(before + coming <= sizes[0] + sizes[1] for before, coming in zip(seen, sizes, strict=True))


def test_what_is_being_written_stays_when_another_process_makes_room(url, config, folder, monkeypatch):
    original = cache_module.save_index

    def save_index(index, tar):
        cache_module.Cache(config)._evict(Path(), coming=int(1e9))
        with partial_folder(tar):  # as while the index is being written
            cache_module.Cache(config)._evict(Path(), coming=int(1e9))
        return original(index, tar)

    monkeypatch.setattr(cache_module, "save_index", save_index)
    assert read_all(Shards(url, cache=config.model_copy(update={"limit_gb": 1e-9})), 0) == KEYS


def test_a_limit_below_one_shard_still_reads(url, config, folder):
    config = config.model_copy(update={"limit_gb": 1e-9})
    shards = Shards(url, max_open=2, cache=config)
    for first in (0, 7, 13):
        shards.prefetch(range(3))
        assert read_all(shards, first) == KEYS
    threads = shards._prefetcher.threads if shards._prefetcher else []
    wait_for(lambda: not any(thread.is_alive() for thread in threads))
    assert total(config) <= max((folder / name).stat().st_size for name in TARS), "only what was fetched last is left"


def test_a_shard_of_another_size_comes_anew(server, url, config):
    Shards(url, cache=config).read(0, 0)
    (tar,) = (path for path in kept(config) if path.suffix == ".tar")
    os.truncate(tar, 1000)
    assert Shards(url, cache=config).read(0, 7).key == "k07"
    (index,) = (path for path in kept(config) if path.suffix == ".json")
    index.write_text("{")
    assert Shards(url, cache=config).read(0, 7).key == "k07"
    assert server.gets[TARS[0]] == 3


def test_an_open_shard_outlives_its_file(server, url, config):
    shards = Shards(url, cache=config)
    shards.read(0, 0)
    for path in kept(config):
        path.unlink()
    assert shards.read(0, 7).key == "k07" and server.gets[TARS[0]] == 1


def test_shards_of_one_content_are_kept_once(server, url, config, folder):
    manifest = read_manifest(folder)
    first, second, third = manifest.shards
    same = Shard(second.file, first.samples, first.bytes, first.sha256)
    (folder / "manifest.json").write_text(manifest.model_copy(update={"shards": (first, same, third)}).model_dump_json())
    twice = Shards(url, cache=config)
    assert twice.read(0, 1) == twice.read(1, 1)
    assert (server.gets[TARS[0]], server.gets[TARS[1]]) == (1, 0)


def test_room_is_made_while_other_processes_begin_and_finish_files(tmp_path):
    """Their folders go away at any moment."""
    cache, ended = Cache(CacheConfig(folder=tmp_path)), threading.Event()
    (tmp_path / "aa").mkdir()

    def begin_and_finish():
        while not ended.is_set():
            with atomic_path(tmp_path / "aa" / "shard.tar") as partial:
                partial.write_text("bytes")

    writers = [threading.Thread(target=begin_and_finish) for _ in range(2)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(200):
            cache._evict(tmp_path / "none", 0)
            assert all(size <= 5 for _, size, _ in cache._list_files(f"??/*{PARTIAL}/*"))
    finally:
        ended.set()
        for writer in writers:
            writer.join()


def test_a_full_disk_is_one_sentence_at_once(server, url, config, monkeypatch):
    def full(url, path, size, sha256):
        Path(path).write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(cache_module, "download", full)
    with pytest.raises(
        UserError, match=r"cannot be written to .*cache \(No space left on device\): make room there .* again$"
    ) as caught:
        Shards(url, cache=config).read(0, 0)
    assert not isinstance(caught.value, SampleError) and not kept(config)


def test_a_folder_that_cannot_be_is_one_sentence(url, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written to .*file \(Not a directory\)"):
        Shards(url, cache=CacheConfig(folder=tmp_path / "file")).read(0, 0)


def test_the_folder_is_the_users_cache_unless_said(url, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    Shards(url).read(0, 0)
    assert len(list((tmp_path / "xdg/jepa_pipeline/shards").glob("??/*.tar"))) == 1


def test_local_shards_are_read_where_they_lie(folder, config):
    shards = Shards(folder, cache=config)
    shards.prefetch(range(3))
    assert read_all(shards, 0) == KEYS
    assert not config.folder.exists()
