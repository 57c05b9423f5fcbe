"""The passages pane: texts edited into a model, with the facts learned and the baselines compared."""

from typing import ClassVar

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType

from .....store.errors import InputError
from ....cli_equivalent import command
from ....presentation.format import format_time
from ....presentation.text import sanitize
from ...data.passages import PASSAGE, PASSAGES, PassageRow, PassageView
from ...widgets.row_lines import Cells, Column
from ..base.pane import Pane, Parts


class PassagesPane(Pane):
    """The passages, each with the report of its run so far."""

    heading, noun = "Passages", "passage"
    listing, detail_listing = PASSAGES, PASSAGE
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

    def cells(self, data: PassageRow) -> Cells:
        facts = f"{data.correct}/{data.facts}" if data.facts else ""
        return str(data.id), data.title, data.model, data.method, facts, format_time(data.created)

    def parts(self, data: PassageView) -> Parts:
        from ....presentation.passage_report import to_parts

        return [*_problems(data), *to_parts(data.record)]

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
            raise InputError(f"an editor cannot open here: run {command(*words)} in a terminal") from None
        self.reload()
        if process.returncode:
            raise InputError(f"the review failed: run {command(*words)} in a terminal to see why")


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
