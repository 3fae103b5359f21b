"""What a check has found."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jepa_pipeline.config.errors import UserError

Level = Literal["ok", "warn", "fail", "skipped"]
GRAVITY: tuple[Level, ...] = ("skipped", "ok", "warn", "fail")


class Finding(NamedTuple):
    """One thing that was looked at: what was measured, and what to do about it where it is not fine."""

    name: str
    level: Level
    text: str
    cure: str = ""


def as_finding(name: str, error: UserError) -> Finding:
    """A mistake, parted at its colon into what is wrong and the cure."""
    text, _, cure = str(error).rpartition(": ")
    return Finding(name, "fail", text or cure, cure if text else "")


def size(count: float) -> str:
    """So many bytes in words, such as "10.3 GB"."""
    for unit, of in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if abs(count) >= of:
            return f"{count / of:.3g} {unit}" if abs(count) < 1000 * of else f"{count / of:,.0f} {unit}"
    return f"{count:.0f} bytes"


def plural(count: int, word: str) -> str:
    """Such as "1 shard" or "2,000 shards"."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def gravest(by_rank: Sequence[Sequence[Finding]], hosts: Sequence[str]) -> list[Finding]:
    """The findings of all processes about their own machines as one list: of each, the gravest, and whose that is."""
    merged = []
    for same in zip(*by_rank, strict=True):
        worst = max(same, key=lambda finding: GRAVITY.index(finding.level))
        ranks = [rank for rank, finding in enumerate(same) if finding.level == worst.level]
        if len(ranks) < len(same):
            where = sorted({hosts[rank] for rank in ranks})
            named = f"{', '.join(where[:4])}{f' and {len(where) - 4} more' if len(where) > 4 else ''}"
            worst = worst._replace(text=f"{worst.text} (rank {ranks[0]}; in all {len(ranks)} of {len(same)} ranks, on {named})")
        merged.append(worst)
    return merged
