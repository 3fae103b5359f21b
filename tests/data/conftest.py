"""A web server of data sets that misbehaves as it is told."""

import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jepa_pipeline.data import remote
from jepa_pipeline.data.writer import png_record, write_shards


class Server(ThreadingHTTPServer):
    """Serves a folder. faults: by file name, what its next answers are: a status, "cut", "stall", "corrupt", "slow" or "endless";
    the last one for ever if it is in `forever`. gets: how often each file was asked for.
    """

    daemon_threads = True
    stall_s = 600
    """Seconds for which a stalled response waits; whatever does not wait for it takes a fraction of them on any machine."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
        self.faults: dict[str, list[int | str]] = defaultdict(list)
        self.forever: dict[str, int | str] = {}
        self.gets: Counter[str] = Counter()
        self.released = threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}"

    def fault(self, name: str) -> int | str | None:
        self.gets[name] += 1
        return self.faults[name].pop(0) if self.faults[name] else self.forever.get(name)


class Handler(SimpleHTTPRequestHandler):
    server: Server  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        fault = self.server.fault(path.name)
        if isinstance(fault, int) or not path.is_file():
            return self.send_error(fault if isinstance(fault, int) else 404)
        body = path.read_bytes()
        half = len(body) // 2
        self.send_response(200)
        if fault not in ("unsaid", "endless"):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if fault == "corrupt":
            body = body[:half] + bytes([body[half] ^ 1]) + body[half + 1 :]
        self.wfile.write(body[:half])
        if fault == "stall":
            self.wfile.flush()
            self.server.released.wait(self.server.stall_s)
        if fault == "slow":
            time.sleep(0.3)
        if fault not in ("cut", "stall", "unsaid"):
            self.wfile.write(body[half:])
        with suppress(ConnectionError):  # the client has heard enough
            while fault == "endless":
                self.wfile.write(bytes(1 << 16))

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """20 labeled samples in shards of 8."""
    monkeypatch.setattr("jepa_pipeline.data.writer.SHARD_SAMPLES", 8)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 12, 9, 3), np.uint8)
    records = [png_record(f"k{n:02d}", Image.fromarray(image), n % 2) for n, image in enumerate(pixels)]
    write_shards(records, tmp_path / "served" / "set 100%", classes=("cat", "dog"), made={})
    return tmp_path / "served" / "set 100%"


@pytest.fixture
def server(folder, monkeypatch):
    monkeypatch.setattr(remote, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(remote, "READ_TIMEOUT_S", 0.5)
    monkeypatch.setattr(remote, "TRIES", 4)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    remote.connect.cache_clear()
    server = Server(folder.parent)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    remote.connect.cache_clear()


@pytest.fixture
def url(server):
    return f"{server.url}/set%20100%25"
