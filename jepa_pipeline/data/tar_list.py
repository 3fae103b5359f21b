"""The tars named on the command line: folders, files, glob patterns and URLs with ranges in braces."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from braceexpand import braceexpand

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.data_parts import find_parts, target_names
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.tar_reader import printable
from jepa_pipeline.redaction import redact


def list_tars(tars: Sequence[str]) -> tuple[str, list[str]]:
    """Return the folder or URL of the tars, and their names in the order in which they will be numbered.

    Raises:
        UserError: there are none, they are in several folders, or a name or URL is not supported.
    """
    found = list(dict.fromkeys(tar for pattern in tars for tar in expand(pattern)))
    locations = sorted({location for location, _ in found})
    if not found:
        raise UserError(f"{' '.join(tars)} names no .tar file: name a folder that holds some, files, or a URL")
    if len(locations) > 1:
        raise UserError(f"the tars are in {locations[0]} and {locations[1]}: index each separately, and mix them in data.train")
    for _, name in found:
        if not name.endswith(".tar") or "\\" in name:
            raise UserError(f"{printable(name)} is not the name of a tar: names end in .tar and have no backslash")
    return locations[0], [name for _, name in found]


def check_tar_parts(location: str, names: Sequence[str]) -> None:
    """Check that the tars are not of several parts of a data set, such as train-000.tar and val-000.tar.

    Raises:
        UserError: they are; with the commands that index each part.
    """
    parts = find_parts({name.removesuffix(".tar") for name in names})
    if not parts:
        return
    by_target: dict[str, list[str]] = {}
    for name, target in target_names(parts).items():
        by_target.setdefault(target, []).append(name)
    patterns = {target: f"{common_start(files)}{'*' if len(files) > 1 else ''}.tar" for target, files in by_target.items()}
    commands = [f"`jepa shards index '{redact(location)}/{tars}' --out OUT/{target}`" for target, tars in patterns.items()]
    first, second = (files[0] for files in list(by_target.values())[:2])
    raise UserError(
        f"the tars {printable(first)} and {printable(second)} are of different parts of a data set: index each part by itself, "
        f"{' and '.join(commands)}, or add --labels none to have all as one set"
    )


def common_start(names: Sequence[str]) -> str:
    """Return the longest text that all names begin with."""
    first, last = min(names), max(names)
    return first[: next((place for place, pair in enumerate(zip(first, last, strict=False)) if len({*pair}) > 1), len(first))]


def expand(pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the folder or URL and the name of each tar of an argument."""
    if is_remote(pattern):
        yield from map(split_url, expand_braces(pattern))
        return
    path = Path(pattern)
    if path.is_dir():
        matches = sorted(path.glob("*.tar"))
    elif path.exists():
        matches = [path]
    else:
        matches = [match for path in map(Path, expand_braces(pattern)) for match in sorted(path.parent.glob(path.name))]
    yield from ((str(match.parent.absolute()), match.name) for match in matches)


def expand_braces(pattern: str) -> Iterator[str]:
    try:
        yield from braceexpand(pattern)
    except ValueError as error:
        raise UserError(f"{pattern} cannot be expanded ({error}): write a range as {{000000..000099}}") from error


def split_url(url: str) -> tuple[str, str]:
    if not url.startswith(("http://", "https://")):
        location, _, name = url.rpartition("/")
        return location, name
    parts = urlsplit(url)  # a query, such as an access token, stays with the location
    path = PurePosixPath(parts.path)
    return urlunsplit(parts._replace(path=str(path.parent))), unquote(path.name)
