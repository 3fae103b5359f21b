"""Files behind a URL: read or fetched whole, with retries, through fsspec."""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import SystemRandom
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit, urlunsplit

import fsspec

from jepa_pipeline.config.errors import UserError

CONNECT_TIMEOUT_S = 20.0
READ_TIMEOUT_S = 60.0
"""Longest silence of a server; a transfer may take as long as it likes while bytes come (aiohttp would end it after 5 minutes)."""
TRIES = 8
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""The pause between tries doubles from the first to the longest, times a random 0.5 to 1.5 so that nodes do not come in step."""
MANIFEST_TRIES = 4
"""Fewer, because somebody may be waiting who only mistyped the host."""

PACKAGES = {"http": "aiohttp", "https": "aiohttp", "s3": "s3fs", "gs": "gcsfs", "hf": "huggingface_hub"}
"""The schemes of URLs that are read, and the package each needs beside fsspec."""
PASSING_STATUS = (408, 425, 429)
"""Of the answers 400 to 499, those that another try may change."""

Result = TypeVar("Result")


def is_remote(location: str) -> bool:
    """Whether a location is a URL and no local folder.

    Raises:
        UserError: it runs a program, or its scheme is none that is read.
    """
    if location.startswith("pipe:"):
        raise UserError(f"{location} runs a program; shards are data: give a folder or URL")
    scheme, separator, _ = location.partition("://")
    if separator and scheme not in PACKAGES:
        raise UserError(f"{location} has the scheme {scheme}: give a folder, or a URL of {', '.join(PACKAGES)}")
    return bool(separator)


def join(url: str, name: str) -> str:
    """The URL of a file right under another; over HTTP a query, such as an access token, stays at its end."""
    if not url.startswith(("http://", "https://")):
        return f"{url.rstrip('/')}/{name}"
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/{quote(name, safe='')}", fragment=""))


def without_secrets(url: str) -> str:
    """A text as it may be printed and kept: URLs in it without password, query and fragment."""
    return re.sub(r"""(://[^\s?#,}\]"']*)[?#][^\s,}\]"']*""", r"\1", re.sub(r"://[^\s/?#]*@", "://", url))


def read_file(url: str) -> bytes:
    """A small file.

    Raises:
        UserError: it could not be read.
    """
    return retried(url, lambda: filesystem(url).cat_file(url), MANIFEST_TRIES)


def fetch_file(url: str, path: Path, size: int, sha256: str) -> None:
    """Fetch a file of known size and SHA-256 whole to a local path; what came amiss is fetched again.

    Raises:
        UserError: it could not be fetched, in as many tries as made sense.
        OSError: the disk is full.
    """

    def attempt() -> None:
        filesystem(url).get_file(url, str(path))
        verify(path, size, sha256)

    retried(url, attempt, TRIES)


def verify(path: Path, size: int, sha256: str) -> None:
    """Raises ConnectionError where a fetched file is not what the manifest says: a proxy may end a file early, and say nothing."""
    came = path.stat().st_size
    if came != size:
        raise ConnectionError(f"{came} bytes came, the manifest says {size}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise ConnectionError(f"the SHA-256 of what came is {digest[:12]}, the manifest says {sha256[:12]}")


def filesystem(url: str) -> Any:
    """The fsspec file system that reads a URL.

    Raises:
        UserError: its package is not installed.
    """
    scheme = urlsplit(url).scheme
    try:
        return connected(scheme, os.getpid())
    except ImportError as error:
        package = PACKAGES[scheme]
        raise UserError(f"{without_secrets(url)} needs a package that is missing: pip install {package}") from error


@cache
def connected(scheme: str, process: int) -> Any:
    """One file system a process. That of a forked process's parent is never used there, but it is kept: were it collected, its
    finalizer would take the parent's connections off the event loop that both share.
    """
    if scheme in ("http", "https", "gs"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=READ_TIMEOUT_S)
        session = {"timeout": timeout, "trust_env": True}  # the environment may name a proxy
        return fsspec.filesystem(scheme, **{"session_kwargs" if scheme == "gs" else "client_kwargs": session})
    if scheme == "s3":
        return fsspec.filesystem(scheme, config_kwargs={"connect_timeout": CONNECT_TIMEOUT_S, "read_timeout": READ_TIMEOUT_S})
    return fsspec.filesystem(scheme)


def retried(url: str, attempt: Callable[[], Result], tries: int) -> Result:
    """What `attempt` returns in the first try that does not fail."""
    number = 1
    while True:
        try:
            return attempt()
        except UserError:
            raise
        except Exception as error:  # each client library has a hierarchy of its own
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            if is_final(error) or number == tries:
                raise UserError(failure(url, error, number)) from error
        time.sleep(pause_s(number))
        number += 1


def pause_s(tried: int) -> float:
    """How long to wait after so many tries."""
    jitter = SystemRandom().uniform(0.5, 1.5)  # not from the global generator, which belongs to the run
    return jitter * min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2 ** (tried - 1))


def is_final(error: Exception) -> bool:
    """Whether another try would fail likewise: the file is not there, must not be read, or the URL is none."""
    status = http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in PASSING_STATUS
    return isinstance(error, FileNotFoundError | PermissionError | ValueError)


def http_status(error: Exception) -> int | None:
    """The status in an error of aiohttp, gcsfs or huggingface_hub, if it is about one."""
    places = ((error, "status"), (error, "code"), (getattr(error, "response", None), "status_code"))
    found = (getattr(holder, name, None) for holder, name in places)
    return next((status for status in found if isinstance(status, int)), None)


def failure(url: str, error: Exception, tries: int) -> str:
    """The sentence on a file that could not be fetched."""
    count = "1 try" if tries == 1 else f"{tries} tries"
    if is_final(error):
        cure = "see that the URL is right and that you may read it"
    else:
        cure = "see that its server works and holds the files of the manifest"
    return f"{without_secrets(url)} could not be fetched in {count} ({reason(url, error)}): {cure}; then run the same command again"


def reason(url: str, error: Exception) -> str:
    status = http_status(error)
    if status is not None:
        return f"the server answered {status}"
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    if isinstance(error, TimeoutError):
        return f"the server was silent, for {CONNECT_TIMEOUT_S:g} s at connecting or for {READ_TIMEOUT_S:g} s later"
    text = " ".join(str(error).replace(url, without_secrets(url)).split())
    return text or type(error).__name__
