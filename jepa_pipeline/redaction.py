"""Secrets, such as passwords and tokens in URLs, removed from whatever leaves the process: consoles, logs, tables, cards, errors.

Two rules: no URL keeps its password, query or fragment, and no assignment to a name that says secret its value; and what was
recognized as a secret once, in a configuration, an argument or the environment, is replaced wherever this process writes it again.
"""

import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO
from urllib.parse import parse_qsl, unquote

PRIVATE_ARGUMENTS = "JEPA_PRIVATE_ARGUMENTS"
"""Variable with further arguments of `jepa` as JSON, for those with a secret: other users can read a command line, but not this."""
HIDDEN = "***"
"""Stands for a secret that is not a part of a URL, of which nothing is left."""
SECRET_NAME = re.compile(
    r"(?:^|[^a-z0-9])(?:api_?key|auth|authorization|credentials?|key|passphrase|passwd|password|pwd|sas|secret|sig|signature|token)"
    r"(?:[^a-z0-9]|$)|^x-(?:amz|goog)-"
)
URL = r"(?:[A-Za-z][A-Za-z0-9+.-]{0,15}://|\b(?:https?|s3|gs|hf):/)"
"""Start of a URL; a path keeps one slash of two."""
URLS = re.compile(rf"{URL}(?:(?!,{URL})[^\s\"'<>])*")
USER = re.compile(rf"({URL})(?:[^\s/?#@:\[\"']*:(?!\d+[/,\s])[^\s@\"']+|[^\s/?#@\"']*)@")
"""A user and a password, which may hold a slash or a question mark, though it should be quoted; but no port of a host."""
QUERY = re.compile(rf"({URL}[^\s?#,}}\]\"']*)[?#](?:[^\s,}}\]\"']|,(?=[^\s,{{]+[&=]))*")
TOKENS = ("mask", "cls", "class", "reg", "dist", "query", "patch")
"""Tokens of networks, whose weights and settings mean no secret."""
TOKENS_OF_NETWORKS = rf"(?:{'|'.join(TOKENS)})_token"
OF_NO_NETWORK = "".join(f"(?<!{token}_)" for token in TOKENS)
NAME = (
    rf"(?!(?:[\w.-]{{0,99}}[_.-])?{TOKENS_OF_NETWORKS})(?:[A-Za-z][\w.-]{{0,99}}[_.-])?"
    r"(?:(?:api|access|account|private|secret)_?key|passphrase|passw(?:or)?d|secret|token|credentials?)"
)
WORTH = r"(?!(?:true|false|none|null|[\d.]{1,6})\b)"
ASSIGNED = re.compile(rf"(?i)(?<![A-Za-z0-9]){OF_NO_NETWORK}({NAME}(?:[_-]id)?=)([\"']?){WORTH}([^\s&\"',;}}\])]+)\2")
ENTRY = re.compile(
    rf"(?im)(\"{NAME}\":\s*|'{NAME}':\s*|(?:^\s*(?:- )?|[{{,]\s*){NAME}:\s+)([\"']?){WORTH}([^\s\"',}}\]]+)\2(?=\s*$|[,}}\]])"
)
PARAMETER = re.compile(r"(?i)([?&](?:sig|signature|key|auth|x-amz-[\w-]+)=)[^\s&\"',}\]]+")
HEADER = re.compile(r"(?i)(authorization[\"']?\s*[:=]\s*[\"']?)(?:(?:basic|bearer)\s+)?[^\s\"',]+")


class KnownSecrets:
    """The secrets that this process has read so far, and what matches them where they do not stand within a word."""

    texts: frozenset[str] = frozenset()
    pattern: re.Pattern[str] | None = None


def redact(text: str) -> str:
    """Return a text without secrets, so that it may be printed, kept and published."""
    if "@" in text or "?" in text or "#" in text:
        text = QUERY.sub(r"\1", USER.sub(r"\1", text))
    if "=" in text or ":" in text:
        for pattern in (ASSIGNED, ENTRY):
            text = pattern.sub(rf"\1\2{HIDDEN}\2", text)
        for pattern in (PARAMETER, HEADER):
            text = pattern.sub(rf"\1{HIDDEN}", text)
    return text if KnownSecrets.pattern is None else KnownSecrets.pattern.sub(HIDDEN, text)


def redact_values(value: Any) -> Any:
    """Return nested values with every text redacted, and those whose key says secret hidden."""
    if isinstance(value, Mapping):
        return {
            key: HIDDEN if isinstance(entry, str) and entry and says_secret(str(key)) else redact_values(entry)
            for key, entry in value.items()
        }
    if isinstance(value, list | tuple):
        return [redact_values(entry) for entry in value]
    return redact(value) if isinstance(value, str) else value


def redact_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row of a log with its texts redacted. Its keys are names of tensors and metrics, whatever words are in them."""
    return {key: redact(value) if isinstance(value, str) else value for key, value in row.items()}


def says_secret(name: str) -> bool:
    """Return whether a name, of a key, a variable or a parameter, says that its value is a secret."""
    plain = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    return SECRET_NAME.search(plain) is not None and re.search(TOKENS_OF_NETWORKS, plain) is None


def find_secrets(value: Any) -> Iterator[str]:
    """Yield the secrets in nested values: passwords and parameters of URLs, and values whose name says secret."""
    if isinstance(value, Mapping):
        for key, entry in value.items():
            if isinstance(entry, str) and entry and says_secret(str(key)):
                yield entry
            yield from find_secrets(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from find_secrets(entry)
    elif isinstance(value, str):
        for pattern in (ASSIGNED, ENTRY):
            yield from (found[3] for found in pattern.finditer(value))
        for url in URLS.findall(value):
            yield from secrets_of_url(url)


def secrets_of_url(url: str) -> Iterator[str]:
    if user := USER.match(url):
        name, colon, password = user[0].removeprefix(user[1])[:-1].partition(":")
        yield from {password, unquote(password)} if colon else {name, unquote(name)} - {""}
    _, _, query = url.rpartition("?") if "?" in url else url.rpartition("#")
    pairs = [pair.partition("=") for pair in re.split("[&#;]", query)] if query != url else []
    for name, _, parameter in pairs:
        if parameter and says_secret(unquote(name)):
            yield from {parameter, unquote(parameter), *(value for _, value in parse_qsl(f"x={parameter}"))}


def remember_secrets(value: Any) -> None:
    """Have `redact` replace the secrets in nested values from now on."""
    remember(find_secrets(value))


def remember_environment() -> None:
    """Have `redact` replace the secrets in the environment; a path or a number, such as of a socket, is none."""
    named = (text for name, text in os.environ.items() if says_secret(name))
    remember(text for text in named if "/" not in text[:1] and not text.isdecimal())


def remember(secrets: Iterable[str]) -> None:
    new = frozenset(filter(is_distinct, secrets)) - KnownSecrets.texts
    if new:
        KnownSecrets.texts |= new
        longest_first = sorted(KnownSecrets.texts, key=len, reverse=True)
        KnownSecrets.pattern = re.compile(rf"(?<![A-Za-z0-9])(?:{'|'.join(map(re.escape, longest_first))})(?![A-Za-z0-9])")


def is_distinct(secret: str) -> bool:
    """Return whether a secret can be told from ordinary words, which replacing it everywhere would destroy."""
    return len(secret) >= 6 and not re.fullmatch(r"[a-z_]{1,11}|[\d.]+", secret)


class RedactedStream:
    """A text stream without secrets; everything but writing is that of the stream below."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redact(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def redacted_streams() -> Iterator[None]:
    """Remove secrets from all that is written to stdout and stderr in this context."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = map(RedactedStream, before)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
