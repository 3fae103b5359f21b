"""Which tars an argument of the command line stands for."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit, urlunsplit

from braceexpand import braceexpand

from jepa_pipeline.config.errors import UserError
from jepa_pipeline.data.remote import is_remote
from jepa_pipeline.data.tar import shown


def find_tars(tars: Sequence[str]) -> tuple[str, list[str]]:
    """The folder or URL in which tars lie, and their names in the order in which they will be numbered.

    Raises:
        UserError: there are none, they lie in several folders, or a name or URL is of a kind that is not read.
    """
    found = list(dict.fromkeys(place for pattern in tars for place in expand(pattern)))
    locations = sorted({location for location, _ in found})
    if not found:
        raise UserError(f"{' '.join(tars)} names no .tar file: name a folder that holds some, files, or a URL")
    if len(locations) > 1:
        raise UserError(f"the tars lie in {locations[0]} and {locations[1]}: index each folder, and mix them in data.train")
    for _, name in found:
        if not name.endswith(".tar") or "\\" in name:
            raise UserError(f"{shown(name)} is not the name of a tar: names end in .tar and have no backslash")
    return locations[0], [name for _, name in found]


def expand(pattern: str) -> Iterator[tuple[str, str]]:
    """The location and name of each tar that an argument stands for."""
    if is_remote(pattern):
        yield from map(split_url, in_braces(pattern))
        return
    path = Path(pattern)
    if path.is_dir():
        matches = sorted(path.glob("*.tar"))
    elif path.exists():
        matches = [path]
    else:
        matches = [match for one in map(Path, in_braces(pattern)) for match in sorted(one.parent.glob(one.name))]
    yield from ((str(match.parent.absolute()), match.name) for match in matches)


def in_braces(pattern: str) -> Iterator[str]:
    try:
        yield from braceexpand(pattern)
    except ValueError as error:
        raise UserError(f"{pattern} cannot be expanded ({error}): a range in braces is such as {{000000..000099}}") from error


def split_url(url: str) -> tuple[str, str]:
    """Over HTTP a query, such as an access token, stays with the location."""
    if not url.startswith(("http://", "https://")):
        location, _, name = url.rpartition("/")
        return location, name
    parts = urlsplit(url)
    path = PurePosixPath(parts.path)
    return urlunsplit(parts._replace(path=str(path.parent))), unquote(path.name)
