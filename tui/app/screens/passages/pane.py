"""The passages pane: texts edited into a model, with the facts learned and the baselines compared."""

from typing import Any, ClassVar

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType

from ....cli_equivalent import command
from ....presentation.format import format_time
from ....presentation.text import sanitize
from ...data.passages import PASSAGE, PASSAGES, PassageRow, PassageView
from ...data.rows import Key, Listing, UnreadableRow, load_row
from ...widgets.row_lines import Column, Row
from ..base.pane import ActionRefused, Pane, Parts


class PassagesPane(Pane):
    """The passages, each with the report of its run so far."""

    heading = "Passages"
    columns = (
        Column("id", 6),
        Column("title"),
        Column("model", 16, drop=1),
        Column("method", 9),
        Column("facts", 7),
        Column("when", 16, drop=2),
    )
    empty = "No passages yet: `retcon passage run MODEL FILE` edits the facts of a text into a model."
    write_actions = frozenset({"review"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "review", "review", tooltip="review the extracted facts in $EDITOR"),
    ]

    @property
    def listing(self) -> Listing[Any]:
        return PASSAGES

    def make_row(self, data: PassageRow | UnreadableRow) -> Row:
        if isinstance(data, UnreadableRow):
            return Row(data.id, (str(data.id), Text("unreadable", style="red")), is_unreadable=True)
        facts = f"{data.correct}/{data.facts}" if data.facts else ""
        cells = (str(data.id), data.title, data.model, data.method, facts, format_time(data.created))
        return Row(data.id, cells)

    def show_detail(self, key: Key | None, *, is_new_row: bool) -> None:
        data = load_row(self.catalog, PASSAGE, key) if key is not None else None
        self.show_text(data, _parts, is_new_row=is_new_row)

    def cli_equivalent(self, key: Key) -> str:
        return command("passage", "show", key)

    def action_review(self) -> None:
        """Open the facts in an editor on this terminal; the job continues afterwards."""
        import subprocess
        import sys

        if self.rows.key is None:
            return
        words = ("passage", "review", str(self.rows.key), "--detach")
        try:
            with self.app.suspend():
                process = subprocess.run([sys.executable, "-m", "retcon.tui", *words], check=False)
        except SuspendNotSupported:
            self.post_message(
                ActionRefused(f"an editor cannot open here: run {command(*words)} in a terminal")
            )
            return
        if process.returncode:
            self.post_message(
                ActionRefused(f"the review failed: run {command(*words)} in a terminal to see why")
            )
        self.reload()


def _parts(data: PassageView) -> Parts:
    from ....presentation.passage_report import to_parts

    return [*_problems(data), *to_parts(data.record)]


def _problems(data: PassageView) -> Parts:
    """Problems of the facts, until the proof exists."""
    problems = data.record["problems"]
    if not problems or data.record["proof"].get("facts"):
        return []
    styles = {"error": "red", "warning": "yellow"}
    return [
        Text(sanitize(f"fact {one['fact'] + 1}: {one['message']}"), style=styles[one["severity"]])
        for one in problems
    ]
