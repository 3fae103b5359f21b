"""Printing of plain text to the terminal."""

from rich.console import Console


def print_plain(console: Console | None, text: str) -> None:
    """Print text as it is, to stdout if there is no console: rich neither wraps nor highlights it, nor reads [paths] as markup."""
    (console or Console()).print(text, soft_wrap=True, markup=False, highlight=False)
