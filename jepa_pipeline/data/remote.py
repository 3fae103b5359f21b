"""Files at a URL: read, opened or downloaded through fsspec, with retries."""

import errno
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import fsspec
from fsspec.callbacks import Callback
from rich.console import Console

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.console import print_plain
from jepa_pipeline.data.reading import Current
from jepa_pipeline.files import sha256_of
from jepa_pipeline.redaction import redact

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
"""Longest silence of a server; a transfer may take any time while bytes come, where aiohttp would end it after 5 minutes."""
TRIES = 8
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""The pause between tries doubles from the first to the longest, times a random 0.5 to 1.5 so that nodes do not retry at once."""
MANIFEST_TRIES = 4
"""Fewer, because somebody may be waiting who only mistyped the host."""
MANIFEST_BYTES, MANIFEST_S = 1 << 28, 300.0
"""Most bytes of a manifest, that of a million shards, and seconds it may take: a server may send without an end."""
SLOW_BYTES_PER_S, SLOW_S = 1000.0, 60.0
"""Mean rate under which a transfer is given up, and the seconds after which it is."""

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""Schemes of URLs that are read, and the package each needs beside fsspec."""
TRANSIENT_STATUS = (408, 425, 429)
"""HTTP errors of a client that another try may not meet: timeout, too early, too many requests."""

Result = TypeVar("Result")


def is_remote(location: str) -> bool:
    """Return whether a location is a URL and not a local folder.

    Raises:
        UserError: it runs a program, or its scheme is not supported.
    """
    if location.startswith("pipe:"):  # webdataset would run it
        raise UserError(f"{location} runs a program; shards are data: give a folder or URL")
    scheme, separator, _ = location.partition("://")
    if separator and scheme not in PACKAGES:
        raise UserError(f"{location} has the scheme {scheme}: give a folder, or a URL of {', '.join(PACKAGES)}")
    return bool(separator)


def join_url(url: str, name: str) -> str:
    """Return the URL of a file in a folder at a URL; over HTTP a query, such as an access token, stays at the end."""
    if not url.startswith(("http://", "https://")):
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name, safe='')}", fragment=""))


def read_bytes(url: str) -> bytes:
    """Return the content of a manifest.

    Raises:
        UserError: it could not be read, or has no end within reason.
    """

    def attempt() -> bytes:
        data, end = bytearray(), time.monotonic() + MANIFEST_S
        with open_url(url) as file:
            while chunk := file.read(1 << 20):
                data += chunk
                if len(data) > MANIFEST_BYTES:
                    raise UserError(f"{redact(url)} has more than {MANIFEST_BYTES:,} bytes, so it is not a manifest: check the URL")
                if time.monotonic() > end:
                    raise UserError(
                        f"{redact(url)} sent {len(data):,} bytes in {MANIFEST_S:g} s and has not ended: check that its server "
                        "works; then run the same command again"
                    )
        return bytes(data)

    return retry(url, attempt, MANIFEST_TRIES)


def open_file(location: str, name: str) -> AbstractContextManager[Any]:
    """Open a file in a folder or at a URL, for one reading from front to end.

    Raises:
        UserError: the scheme of the URL is not supported.
        OSError: a local one is not there. A client library raises its own errors if a URL cannot be reached.
    """
    if not is_remote(location):
        path = Path(location) / name
        if path.is_fifo():
            raise OSError(errno.EINVAL, "it is a pipe")  # opening it would wait for a writer
        return path.open("rb", buffering=1 << 20)
    return open_url(join_url(location, name))


def open_url(url: str) -> AbstractContextManager[Any]:
    """Open the file at a URL, for one reading from front to end."""
    streamed = {"block_size": 0} if url.startswith(("http", "hf")) else {}  # one request for all of it instead of ranges
    if url.startswith("http"):
        streamed["size"] = 1  # any; else fsspec asks for it before, and takes whatever the server answers for a missing file
    return get_filesystem(url).open(url, "rb", **streamed)


def download(url: str, path: Path, size: int, sha256: str) -> None:
    """Download a file of known size and SHA-256 to a local path; if it arrives damaged it is downloaded again.

    Raises:
        UserError: it could not be downloaded.
        OSError: the disk is full.
    """

    def attempt() -> None:
        get_filesystem(url).get_file(url, str(path), callback=Bound(size))
        check_download(path, size, sha256)

    retry(url, attempt, TRIES)


class Bound(Callback):
    """Ends a transfer with a ConnectionError if more comes than is expected, which would fill the disk, or almost nothing.

    Args:
        expected: bytes.
    """

    def __init__(self, expected: int) -> None:
        super().__init__()
        self.expected, self.begin = expected, time.monotonic()

    def relative_update(self, inc: int = 1) -> None:
        super().relative_update(inc)
        self.check()

    def absolute_update(self, value: int) -> None:
        super().absolute_update(value)
        self.check()

    def check(self) -> None:
        if self.value > self.expected:
            raise ConnectionError(f"more than {self.expected} bytes came, which the manifest says")
        seconds = time.monotonic() - self.begin
        if seconds > SLOW_S and self.value < seconds * SLOW_BYTES_PER_S:
            raise ConnectionError(f"{self.value} bytes came in {seconds:.0f} s")


def check_download(path: Path, size: int, sha256: str) -> None:
    """Raise ConnectionError if a file is not what the manifest says: a proxy may end one early without an error."""
    received = path.stat().st_size
    if received != size:
        raise ConnectionError(f"{received} bytes came, the manifest says {size}")
    digest = sha256_of(path)
    if digest != sha256:
        raise ConnectionError(f"the SHA-256 of what came is {digest[:12]}, the manifest says {sha256[:12]}")


def get_filesystem(url: str) -> Any:
    """Return the fsspec file system that reads a URL.

    Raises:
        UserError: its package is not installed.
    """
    scheme = urlsplit(url).scheme
    try:
        return connect(scheme, os.getpid())
    except ImportError as error:
        package = PACKAGES[scheme]
        raise UserError(f"{redact(url)} needs a package that is missing: pip install {package}") from error


# A file system for each process, because connections do not survive a fork. A forked process keeps its parent's in the
# cache without using it: if it were collected, its finalizer would close the parent's connections in the event loop.
@cache
def connect(scheme: str, pid: int) -> Any:
    if scheme in ("http", "https", "gs"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        session = {"timeout": timeout, "trust_env": True}  # the environment may name a proxy
        return fsspec.filesystem(scheme, **{"session_kwargs" if scheme == "gs" else "client_kwargs": session})
    if scheme == "s3":
        return fsspec.filesystem(scheme, config_kwargs={"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S})
    return fsspec.filesystem(scheme)


def retry(url: str, attempt: Callable[[], Result], tries: int) -> Result:
    """Call `attempt` until it succeeds, with growing pauses, and return its result.

    Raises:
        UserError: all tries failed, or another one would fail likewise.
        OSError: the disk is full.
    """
    for number in range(1, tries + 1):
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:  # each client library has its own hierarchy of errors
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            if is_permanent(error) or number == tries:
                raise UserError(describe_failure(url, error, number)) from error
            report_retry(url, error, number + 1, tries)
        time.sleep(backoff_s(number))
    raise ValueError(f"tries is {tries}, but at least 1 is needed")


def report_retry(url: str, error: Exception, number: int, tries: int) -> None:
    """Say the first retry, and let others know of each while they wait; what is fetched ahead in a thread fails in silence."""
    if threading.current_thread() is not threading.main_thread():
        return
    reason = describe_error(url, error)
    Current.amend(f"try {number} of {tries}, {reason}")
    if number == 2:
        print_plain(Console(stderr=True), f"{redact(url)} is tried again, up to {tries} times: {reason}")


def backoff_s(tries: int) -> float:
    """Return how long to wait after the given number of tries."""
    jitter = SystemRandom().uniform(0.5, 1.5)  # not from the global generator, which belongs to the run
    return jitter * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tries - 1))


def is_permanent(error: Exception) -> bool:
    """Return whether another try would fail likewise: the file is missing or forbidden, or the URL is wrong."""
    status = http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in TRANSIENT_STATUS
    return isinstance(error, FileNotFoundError | PermissionError | ValueError)


def http_status(error: Exception) -> int | None:
    # aiohttp, gcsfs and huggingface_hub each keep it under another name; a generator, because aiohttp's `code` is deprecated.
    attributes = ((error, "status"), (error, "code"), (getattr(error, "response", None), "status_code"))
    values = (getattr(holder, name, None) for holder, name in attributes)
    return next((value for value in values if isinstance(value, int)), None)


def describe_failure(url: str, error: Exception, tries: int) -> str:
    count = "1 try" if tries == 1 else f"{tries} tries"
    if is_permanent(error):
        cure = "check that the URL is right and that you may read it"
    else:
        cure = "check that its server works and holds the files of the manifest"
    reason = describe_error(url, error)
    return f"{redact(url)} could not be fetched in {count} ({reason}): {cure}; then run the same command again"


def describe_error(url: str, error: Exception) -> str:
    status = http_status(error)
    if status is not None:
        return f"the server answered {status}"
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, TimeoutError):
        return f"the server was silent for {CONNECT_TIMEOUT_S:g} s while connecting or for {READ_TIMEOUT_S:g} s later"
    text = " ".join(str(error).replace(url, redact(url)).split())
    return text or type(error).__name__
