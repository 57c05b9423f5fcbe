"""The report of a passage run as Markdown, as one self-contained HTML file, and as lines for a terminal.

People and models wrote the texts in the record: every form shows them as text, never as markup.
"""

import base64
import html
from pathlib import Path
from typing import TYPE_CHECKING

from ...engine.jobs.publication.card import escape_markdown
from ...engine.jobs.publication.card import format_table as markdown_table
from ...store.atomic_files import write_atomically
from .figures import check_path, to_svg
from .passage_figures import draw
from .passage_summary import Record, Table, heading, sections
from .text import sanitize

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table as RichTable

FORMATS = ("md", "html")
# The browser loads nothing and runs nothing, whatever the texts contain.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }}
table {{ border-collapse: collapse; margin: 0.6rem 0; }}
th, td {{ text-align: left; vertical-align: top; padding: 0.2rem 0.7rem 0.2rem 0; border-bottom: 1px solid #ddd; }}
td {{ overflow-wrap: anywhere; }}
th {{ font-weight: 600; }}
img {{ max-width: 100%; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #181818; color: #ddd; }} img {{ background: #fff; }} }}
</style>
</head>
<body>
"""


def save_report(path: Path, record: Record) -> None:
    """Write the report atomically; the suffix of `path` selects the form.

    Raises:
        InputError: the suffix is neither .md nor .html, or the folder does not exist.
        CatalogError: the file cannot be written.
    """
    check_path(path, FORMATS)
    text = (to_markdown if path.suffix.lower() == ".md" else to_html)(record)
    write_atomically(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def to_markdown(record: Record) -> str:
    """The report as Markdown, without pictures."""
    parts = [f"# {_marked(heading(record))}"]
    for section in sections(record):
        parts.append(f"## {section.title}")
        parts += [_marked(sentence) for sentence in section.text]
        if section.table:
            parts.append(_markdown_table(section.table))
    return "\n\n".join(parts) + "\n"


def to_html(record: Record) -> str:
    """The report as one HTML file with embedded pictures, without scripts, links or external files."""
    title = _html(heading(record))
    parts = [_HEAD.format(title=title), f"<h1>{title}</h1>\n"]
    for section in sections(record):
        parts.append(f"<h2>{_html(section.title)}</h2>\n")
        parts += [f"<p>{_html(sentence)}</p>\n" for sentence in section.text]
        if section.picture:
            picture = base64.b64encode(to_svg(draw(record, section.picture))).decode("ascii")
            parts.append(f'<img alt="{_html(section.title)}" src="data:image/svg+xml;base64,{picture}">\n')
        if section.table:
            parts.append(_html_table(section.table))
    return "".join([*parts, "</body>\n</html>\n"])


def to_parts(record: Record) -> list["RenderableType"]:
    """The report for a terminal of 80 columns or more: headings, sentences, tables with folded long cells."""
    from rich.text import Text

    parts: list[RenderableType] = [Text(sanitize(heading(record)), style="bold")]
    for section in sections(record):
        parts += [Text(""), Text(section.title, style="bold")]
        parts += [Text(sanitize(sentence), style="dim") for sentence in section.text]
        if section.table:
            parts.append(_rich_table(section.table))
    return parts


def _marked(text: str) -> str:
    return escape_markdown(sanitize(text))


def _html(text: str) -> str:
    return html.escape(sanitize(text))


def _markdown_table(table: Table) -> str:
    return markdown_table(table.columns, [[_marked(cell) for cell in row] for row in table.rows])


def _html_table(table: Table) -> str:
    def row(tag: str, cells: tuple[str, ...]) -> str:
        return "<tr>" + "".join(f"<{tag}>{_html(cell)}</{tag}>" for cell in cells) + "</tr>\n"

    body = "".join(row("td", cells) for cells in table.rows)
    return f"<table>\n{row('th', table.columns)}{body}</table>\n"


def _rich_table(table: Table) -> "RichTable":
    """Short cells side by side; the long cells of a row stacked and folded in the last column."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="dim")
    short = [at for at, column in enumerate(table.columns) if column not in table.long]
    stacked = [at for at, column in enumerate(table.columns) if column in table.long]
    for at in short:
        shown.add_column(table.columns[at], no_wrap=True, overflow="ellipsis")
    if stacked:
        shown.add_column(", ".join(table.columns[at] for at in stacked), overflow="fold")
    for row in table.rows:
        cells = [Text(sanitize(row[at])) for at in short]
        if stacked:
            first, *others = [sanitize(row[at]) for at in stacked if row[at]] or [""]
            cells.append(Text("\n").join([Text(first), *(Text(other, style="dim") for other in others)]))
        shown.add_row(*cells)
    return shown
