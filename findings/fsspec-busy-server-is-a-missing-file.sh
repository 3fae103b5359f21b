#!/usr/bin/env bash
# fsspec 2026.9.0 with aiohttp 3.14.5: opening a shard at a server that is busy for a moment says that the shard does not exist.
#
# Streaming loaders retry what may pass (a 503, a refused connection) and give up on what is final (a missing file).
# Expected: fsspec.filesystem("http").open(url) of a server that answers 503 raises an error that tells it from a 404: reading the same
# URL at once with cat_file does, with aiohttp's ClientResponseError and its status.
# Seen: open() first asks for the size of the file, and any failure of that request becomes FileNotFoundError, as for a 404: the status
# is left only in its __cause__. So code that treats missing shards as final, or skips them, loses data when a server is busy. If the
# size is given, open(url, size=...), that request is not made, and reading raises the error with its status.
#
# Exits with 0 while this is so.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q fsspec==2026.9.0 aiohttp==3.14.5
"$folder/venv/bin/python" - <<'PY'
import http.server
import sys
import threading

import fsspec


class Server(http.server.BaseHTTPRequestHandler):
    """Answers 503 to /busy.tar and 404 to /missing.tar."""

    def do_GET(self):
        self.send_response(503 if "busy" in self.path else 404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
http_files = fsspec.filesystem("http")


def seen(name, read):
    """The class of the error of reading a file, and the status that it names."""
    try:
        read(f"http://127.0.0.1:{server.server_port}/{name}.tar")
    except Exception as error:
        return type(error).__name__, getattr(error, "status", None)
    return "no error", None


def read_with_size(url):
    with http_files.open(url, size=10_240, block_size=0) as file:
        return file.read()


results = {
    "cat_file, busy": seen("busy", http_files.cat_file),
    "cat_file, missing": seen("missing", http_files.cat_file),
    "open, busy": seen("busy", http_files.open),
    "open, missing": seen("missing", http_files.open),
    "open with a size, busy": seen("busy", read_with_size),
}
for name, (error, status) in results.items():
    print(f"{name:24} {error}, status {status}")
server.shutdown()
as_described = (
    results["open, busy"] == results["open, missing"] == ("FileNotFoundError", None)
    and results["cat_file, busy"] == results["open with a size, busy"] == ("ClientResponseError", 503)
)
sys.exit(0 if as_described else "this is no longer so")
PY
