"""The data of a disturbed run: links to shards, which are damaged in place of the shards, and a server of them that misbehaves."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import Random

from jepa_pipeline.config.data import SourceConfig
from jepa_pipeline.config.run import RunConfig
from jepa_pipeline.data.custom import require_shards
from jepa_pipeline.data.index import index_path
from jepa_pipeline.data.manifest import Shard, load_manifest, locate_tars, save_manifest
from jepa_pipeline.data.remote import is_remote

MOST_BYTES = 100e6
"""Bytes of shards that are used of each data set; of the first shard all are."""
SLOW_S = 0.5
"""Seconds that a slow answer takes longer."""


def link_data(config: RunConfig, folder: Path) -> RunConfig:
    """Return the configuration with its local data sets replaced by folders of links to their first shards, named 0, 1, ...

    Raises:
        UserError: a data set is incomplete.
    """
    linked = [
        link_shards(source.path, folder / f"{number}") if is_local(source) else source.path
        for number, source in enumerate(config.data.train)
    ]
    return with_sources(config, linked)


def is_local(source: SourceConfig) -> bool:
    """Return whether the shards of a data set are on this machine."""
    return not is_remote(path := require_shards(source)) and not is_remote(locate_tars(path, load_manifest(path)))


def with_sources(config: RunConfig, places: Sequence[Path | str], **data: object) -> RunConfig:
    """Return the configuration with its data sets elsewhere, and with other values of the data section."""
    sources = zip(config.data.train, places, strict=True)
    moved = tuple(source.model_copy(update={"path": str(place)}) for source, place in sources)
    return config.model_copy(update={"data": config.data.model_copy(update={"train": moved, **data})})


def link_shards(location: str, folder: Path) -> Path:
    """Make a data set of links to the first shards of another one."""
    manifest = load_manifest(location)
    tars, shards, size = Path(locate_tars(location, manifest)).resolve(), list[Shard](), 0
    for shard in manifest.shards:
        if shards and size + shard.bytes > MOST_BYTES:
            break
        shards.append(shard)
        size += shard.bytes
    folder.mkdir(parents=True)
    for shard in shards:
        (folder / shard.file).symlink_to(tars / shard.file)
        index = index_path(Path(location) / shard.file)
        (folder / index.name).symlink_to(index.resolve())
    samples = sum(shard.samples for shard in shards)
    save_manifest(manifest.model_copy(update={"shards": tuple(shards), "samples": samples, "location": None}), folder)
    return folder


@contextmanager
def damaged(folder: Path, random: Random) -> Iterator[str]:
    """Damage every shard of the data sets in a folder in the same way, which is yielded in words, and undo it at the end."""
    links = {path: path.readlink() for path in sorted(folder.glob("*/*.tar"))}
    damage, share = random.choice(("cut", "overwritten", "missing")), random.uniform(0, 0.5)
    try:
        for path in links:
            content = path.read_bytes()
            kept = content[: int(share * len(content))]
            path.unlink()
            if damage != "missing":
                path.write_bytes(kept if damage == "cut" else kept.ljust(len(content), b"\0"))
        yield damage if damage == "missing" else f"{damage} from {100 * share:.0f}%"
    finally:
        for path, target in links.items():
            path.unlink(missing_ok=True)
            path.symlink_to(target)


class Server(ThreadingHTTPServer):
    """Serves a folder on this machine; the first answer for each file is one of several faults, and later ones may be slow."""

    daemon_threads = True

    def __init__(self, folder: Path, seed: int) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.random = Random(seed)
        self.asked = set[Path]()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fault(self, path: Path) -> str | None:
        """Return the fault of the next answer. A manifest, which has no hash, is not damaged on its way."""
        first = path not in self.asked
        self.asked.add(path)
        faults = ["503", "cut", "slow", *(["changed"] if path.suffix == ".tar" else [])]
        return self.random.choice(faults) if first else self.random.choice(["slow", None])


class Handler(SimpleHTTPRequestHandler):
    """Answers of a Server."""

    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        """Send a file, or a part of it, or a changed byte in it."""
        path = Path(self.translate_path(self.path))
        fault = self.server.fault(path)
        if fault == "503" or not path.is_file():
            return self.send_error(503 if path.is_file() else 404)
        content = bytearray(path.read_bytes())
        half = len(content) // 2
        if fault == "changed":
            content[half] ^= 1
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[:half])
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault != "cut":
            self.wfile.write(content[half:])

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""

    def handle(self) -> None:
        """Answer; a reader that was killed has closed its connection."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True


@contextmanager
def serve(folder: Path, seed: int) -> Iterator[str]:
    """Serve a folder at a URL, which is yielded."""
    server = Server(folder, seed)
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield server.url
    finally:
        server.shutdown()
        server.server_close()
