"""What commands print: data on stdout, narration on stderr, and nothing of a model's that could steer a terminal."""

import json
import os
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console

from ..presentation.encoding import supports_unicode
from ..presentation.text import cut as cut_text
from ..presentation.text import sanitize

_GAP = 2
_SHORTEST = 8


def console() -> Console:
    """Stdout for what Rich draws; no markup is read from data."""
    return Console(markup=False, highlight=False, emoji=False)


def terminal_width() -> int:
    """Columns of the terminal; 80 where there is none."""
    return shutil.get_terminal_size().columns


def color_wanted() -> bool:
    """Whether stdout takes color: a terminal, and NO_COLOR unset."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def narrate(text: str) -> None:
    """Say something that is not the answer, in one line."""
    click.echo(sanitize(text), err=True)


def print_json(data: Any) -> None:
    """One document on stdout; where that takes not every character, they are written as JSON's escapes."""
    ascii_only = not supports_unicode(sys.stdout.encoding)
    click.echo(json.dumps(data, indent=2, ensure_ascii=ascii_only, default=_plain))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, cut: str = "") -> None:
    """A table of what was found, or the sentence `empty`.

    On a terminal that is too narrow the column `cut` is shortened; a pipe or a file gets whole lines.
    """
    cells = [[sanitize(show(cell)) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    lines = [list(columns), *cells]
    widths = [max(cell_len(line[number]) for line in lines) for number in range(len(columns))]
    if cut in columns and sys.stdout.isatty():
        others = sum(widths) + _GAP * (len(widths) - 1) - widths[columns.index(cut)]
        widths[columns.index(cut)] = max(
            _SHORTEST, min(widths[columns.index(cut)], terminal_width() - others)
        )
    for number, line in enumerate(lines):
        text = (" " * _GAP).join(map(_fitted, line, widths)).rstrip()
        click.secho(text, bold=True) if number == 0 else click.echo(text)


def _fitted(text: str, width: int) -> str:
    """Text in exactly so many terminal cells; what is too long ends in an ellipsis."""
    return set_cell_size(cut_text(text, width), width)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Names and values, one a line."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        click.echo(f"{name:<{width}}  {sanitize(show(value))}")


def show(value: Any) -> str:
    """A value as a person reads it."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no JSON")
