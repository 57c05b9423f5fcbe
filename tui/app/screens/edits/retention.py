"""Retention as a matrix: revisions down, earlier edits across."""

from collections.abc import Sequence

from rich.text import Text

from ....presentation.text import sanitize
from ...data.edits import EditRetention, RetentionRow
from ...widgets.detail import title
from ..base.pane import Parts

_CELL = 8
_SHADES = "·░▒▓█"


def draw_retention(model: str, rows: Sequence[RetentionRow], width: int) -> Parts:
    """The matrix in at most `width` columns, oldest edit first. If not all edits fit, the oldest are omitted.

    Each cell counts the requests of an edit that are still the model's first choice.
    """
    parts: Parts = [title(f"Retention of earlier edits of {model}"), ""]
    if not rows:
        text = Text("No revision with earlier edits was evaluated yet: press s on one.", style="dim")
        return [*parts, text]
    edits: dict[str, str] = {}
    for row in reversed(rows):
        edits |= {one.edit: "" for one in row.retained}
    shown = list(edits)[-max(1, (width - 22) // _CELL) :]
    head = Text(f"{'evaluated at':<22}", style="bold")
    for edit in shown:
        head.append(f"{edit[: _CELL - 2]:<{_CELL}}")
    parts.append(head)
    for row in rows:
        line = Text(f"{row.revision} {sanitize(row.message)[:10]:<11}")
        retained = {one.edit: one for one in row.retained}
        for edit in shown:
            line.append_text(_cell(retained.get(edit)))
        parts.append(line)
    left_out = len(edits) - len(shown)
    if left_out:
        parts.append(Text(f"({left_out} older edits do not fit)", style="dim"))
    return [
        *parts, "",
        Text("retained requests of all, by first choice; the shade shows the share: " + " ".join(_SHADES), style="dim"),
        Text("evaluating a later revision evaluates earlier edits again with their own prompts", style="dim"),
    ]  # fmt: skip


def _cell(one: EditRetention | None) -> Text:
    if one is None:
        return Text(" " * _CELL)
    share = one.first_choice / one.requests if one.requests else 0.0
    shade = _SHADES[round(share * (len(_SHADES) - 1))]
    text = f"{shade}{one.first_choice}/{one.requests}"
    return Text(f"{text:<{_CELL}}", style="bold red" if share < 0.5 else "")
