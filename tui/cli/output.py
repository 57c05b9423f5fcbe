"""Print results to stdout and messages to stderr, without control characters."""

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any

import click
from rich.cells import cell_len, set_cell_size
from rich.console import Console

from ..presentation.encoding import supports_unicode
from ..presentation.text import cut as cut_text
from ..presentation.text import sanitize

_GAP = 2
_MIN_WIDTH = 8


def console() -> Console:
    """A Rich console on stdout that reads no markup from data."""
    return Console(markup=False, highlight=False, emoji=False)


def terminal_width() -> int:
    """The number of columns of the terminal; 80 without a terminal."""
    return shutil.get_terminal_size().columns


def color_wanted() -> bool:
    """Whether stdout is a terminal and NO_COLOR is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def narrate(text: str) -> None:
    """Print a message on stderr in one line."""
    click.echo(sanitize(text), err=True)


def print_json(data: Any) -> None:
    """Print one document on stdout, with JSON escapes if the encoding of stdout is not UTF-8."""
    ascii_only = not supports_unicode(sys.stdout.encoding)
    click.echo(json.dumps(data, indent=2, ensure_ascii=ascii_only, default=_encode))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], empty: str, cut: str = "") -> None:
    """Print a table. If there are no rows, print the text of `empty` instead.

    On a narrow terminal, the column with the index `cut` is shortened. In a pipe or a file, lines are not shortened.
    """
    cells = [[sanitize(format_value(cell)) for cell in row] for row in rows]
    if not cells:
        click.echo(empty)
        return
    lines = [list(columns), *cells]
    widths = [max(cell_len(line[number]) for line in lines) for number in range(len(columns))]
    if cut in columns and sys.stdout.isatty():
        others = sum(widths) + _GAP * (len(widths) - 1) - widths[columns.index(cut)]
        widths[columns.index(cut)] = max(
            _MIN_WIDTH, min(widths[columns.index(cut)], terminal_width() - others)
        )
    for number, line in enumerate(lines):
        text = (" " * _GAP).join(map(_fit, line, widths)).rstrip()
        click.secho(text, bold=True) if number == 0 else click.echo(text)


def print_list(
    name: str,
    records: Sequence[dict[str, Any]],
    columns: str,
    empty: str,
    *,
    as_json: bool,
    cut: str = "",
    **cells: Callable[[dict[str, Any]], Any],
) -> None:
    """Print records as JSON under `name`, or as a table of `columns`, names separated by spaces. See `print_table`.

    A column is a field of the record, or one of `cells`. The column `id` of `traces` is the field `trace`.
    """
    if as_json:
        print_json({name: records})
        return
    rows = []
    for record in records:
        fields = {"id": record.get(name.removesuffix("s"))} | record
        fields |= {column: read(record) for column, read in cells.items()}
        rows.append([fields[column] for column in columns.split()])
    print_table(columns.split(), rows, empty, cut)


def _fit(text: str, width: int) -> str:
    """The text in exactly `width` terminal cells; a longer text ends in an ellipsis."""
    return set_cell_size(cut_text(text, width), width)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Print names and values, one pair per line."""
    width = max((len(name) for name, _ in fields), default=0)
    for name, value in fields:
        click.echo(f"{name:<{width}}  {sanitize(format_value(value))}")


def format_value(value: Any) -> str:
    """Format a value for people."""
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def _encode(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is not valid JSON")
