"""The result of a check."""

import sys
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jepa_pipeline.config.errors import UserError

Level = Literal["ok", "warn", "fail", "skipped"]
SEVERITY: tuple[Level, ...] = ("skipped", "ok", "warn", "fail")


class CheckResult(NamedTuple):
    """The result of a check: its measurement, and a cure if it is not ok."""

    name: str
    level: Level
    text: str
    cure: str = ""


def from_error(name: str, error: UserError) -> CheckResult:
    """Return a failure, with the error's message split at its last colon into text and cure."""
    text, _, cure = str(error).rpartition(": ")
    return CheckResult(name, "fail", text or cure, cure if text else "")


def require(results: Sequence[CheckResult]) -> None:
    """Print warnings to stderr.

    Raises:
        UserError: there are failures, with a line for each.
    """
    for result in results:
        if result.level == "warn":
            print(f"warning: {result.text}: {result.cure}", file=sys.stderr)
    if errors := [": ".join(filter(None, (result.text, result.cure))) for result in results if result.level == "fail"]:
        raise UserError("\n".join(errors))


def format_bytes(count: float) -> str:
    """Return a number of bytes such as "10.3 GB"."""
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= factor:
            return f"{count / factor:.3g} {unit}" if abs(count) < 1000 * factor else f"{count / factor:,.0f} {unit}"
    return f"{count:.0f} bytes"


def pluralize(count: int, word: str) -> str:
    """Return a count with its unit, such as "1 shard" or "2,000 shards"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def merge_ranks(by_rank: Sequence[Sequence[CheckResult]], hosts: Sequence[str]) -> list[CheckResult]:
    """Return the most severe result of each check over all ranks, with the ranks and hosts it is from."""
    merged = []
    for results in zip(*by_rank, strict=True):
        worst = max(results, key=lambda result: SEVERITY.index(result.level))
        ranks = [rank for rank, result in enumerate(results) if result.level == worst.level]
        if len(ranks) < len(results):
            affected = sorted({hosts[rank] for rank in ranks})
            listed = f"{', '.join(affected[:4])}{f' and {len(affected) - 4} more' if len(affected) > 4 else ''}"
            worst = worst._replace(text=f"{worst.text} (rank {ranks[0]}; {len(ranks)} of {len(results)} ranks, on {listed})")
        merged.append(worst)
    return merged
