"""The passages pane: texts put into a model, what stuck, and how other ways to answer compare."""

from typing import Any, ClassVar

from rich.text import Text
from textual.app import SuspendNotSupported
from textual.binding import Binding, BindingType

from ....cli_equivalent import command
from ....presentation.format import format_time
from ....presentation.text import sanitize
from ...data.passages import PASSAGE, PASSAGES, PassageRow, PassageView
from ...data.rows import Hurt, Key, Listing, row_of
from ...widgets.row_lines import Column, Row
from ..base.pane import Pane, Parts, Refused


class PassagesPane(Pane):
    """The passages, each with the report of its run as far as it got."""

    heading = "Passages"
    columns = (
        Column("id", 6),
        Column("title"),
        Column("model", 16, drop=1),
        Column("method", 9),
        Column("held", 7),
        Column("when", 16, drop=2),
    )
    empty = "No passages yet: `retcon passage run MODEL FILE` puts the facts of a text into a model."
    writing = frozenset({"review"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("r", "review", "review", tooltip="look at the facts in $EDITOR before they are written"),
    ]

    @property
    def listing(self) -> Listing[Any]:
        return PASSAGES

    def make_row(self, found: PassageRow | Hurt) -> Row:
        if isinstance(found, Hurt):
            return Row(found.id, (str(found.id), Text("damaged", style="red")), hurt=True)
        held = f"{found.held}/{found.asked}" if found.asked else ""
        cells = (str(found.id), found.title, found.model, found.method, held, format_time(found.created))
        return Row(found.id, cells)

    def show_detail(self, key: Key | None, *, fresh: bool) -> None:
        found = row_of(self.catalog, PASSAGE, key) if key is not None else None
        self.show_text(found, _parts, fresh=fresh)

    def twin(self, key: Key) -> str:
        return command("passage", "show", key)

    def action_review(self) -> None:
        """Hand the terminal to the editor and take it back; the job goes on."""
        import subprocess
        import sys

        if self.rows.key is None:
            return
        words = ("passage", "review", str(self.rows.key), "--detach")
        try:
            with self.app.suspend():
                done = subprocess.run([sys.executable, "-m", "retcon.tui", *words], check=False)
        except SuspendNotSupported:
            self.post_message(Refused(f"no editor opens in here: {command(*words)} in a terminal"))
            return
        if done.returncode:
            self.post_message(Refused(f"nothing goes on: {command(*words)} says why"))
        self.reload()


def _parts(found: PassageView) -> Parts:
    from ....presentation.passage_report import to_parts

    return [*_problems(found), *to_parts(found.record)]


def _problems(found: PassageView) -> Parts:
    """What is wrong with the facts, before they are written: afterwards the proof tells."""
    problems = found.record["problems"]
    if not problems or found.record["proof"].get("facts"):
        return []
    styles = {"error": "red", "warning": "yellow"}
    return [
        Text(sanitize(f"fact {one['fact'] + 1}: {one['message']}"), style=styles[one["severity"]])
        for one in problems
    ]
