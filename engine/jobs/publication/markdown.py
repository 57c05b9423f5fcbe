"""Other people's text in Markdown: it stays text, whatever is written in it."""

import html
import re
from collections.abc import Sequence

_MARKDOWN = re.compile(r"([\\`*_\[\]|~])")


def escape_markdown(text: str) -> str:
    """A text as it stands in a line or a cell: one line, no markup, no HTML."""
    one_line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return _MARKDOWN.sub(r"\\\1", html.escape(one_line, quote=False))


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are Markdown already."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
