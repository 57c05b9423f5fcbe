"""The edits pane: a model's history as a graph, and what can be undone in it."""

from typing import ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from ...engine import jobs
from ...store import history
from ...store.catalog import Catalog
from ..data.edits import (
    History,
    RevisionRow,
    evaluations_of,
    history_of,
    revision_detail,
    why_not_revert,
)
from ..data.models import model_names
from ..data.rows import Hurt
from ..graph import draw
from ..twin import command
from ..widgets.rows import Column, Row
from .edit_form import EditForm
from .pane import ModelChosen, Pane, Refused
from .revision_text import revision_parts
from .show import when

# What a revision is to the head: a symbol in the graph and a word beside it.
_MARKS = {
    "base": "◆",
    "live": "●",
    "revert": "↶",
    "taken out": "○",
    "rolled back": "◌",
    "other branch": "◌",
}


class EditsPane(Pane):
    """The history of one model."""

    heading = "Edits"
    columns = (
        Column("graph", 7),
        Column("revision", 10),
        Column("state", 15),
        Column("what", least=28),
        Column("method", 7, drop=2),
        Column("layer", 5, drop=1),
        Column("when", 16, drop=3),
    )
    empty = "No model yet: add one in the models tab (1)."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "edit", tooltip="write a fact into this model"),
        Binding(
            "z", "rollback", "roll back", tooltip="move the head to this revision, and prove its weights"
        ),
        Binding("x", "revert", "take out", tooltip="take this edit out, and keep those after it"),
        Binding("s", "score", "score", tooltip="score this revision on its own requests"),
        Binding("m", "model(1)", "model", tooltip="the history of the next model"),
    ]

    def __init__(self, catalog: Catalog, id: str) -> None:
        super().__init__(catalog, id)
        self._history: History | None = None
        self._models = 0

    def read_rows(self) -> list[Row]:
        names = list(model_names(self.catalog))
        self._models = len(names)
        if self.model not in names:
            self.model = names[0] if names else None
        self._history = history_of(self.catalog, self.model) if self.model is not None else None
        return _rows(self._history) if self._history is not None else []

    def reload(self) -> None:
        super().reload()
        self.refresh_bindings()

    def show_detail(self, key: str | None, *, fresh: bool) -> None:
        if key is None or self._history is None:
            self.show_text(None, lambda _: [], fresh=fresh)
            return
        standing = next(
            (row.standing for row in self._history.rows if row.id == key and isinstance(row, RevisionRow)),
            "",
        )
        head, scores = self._history.head == key, evaluations_of(self.catalog, key)
        self.show_text(
            revision_detail(self.catalog, key),
            lambda found: revision_parts(found, scores, standing, head=head),
            fresh=fresh,
        )

    def twin(self, key: str) -> str:
        return command("history", self.model or "")

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The key that changes the model is offered where there is another."""
        return action != "model" or self._models > 1

    def action_edit(self) -> None:
        self.fill(EditForm(self.catalog, self.model))

    def action_rollback(self) -> None:
        model, to = self.model, self.rows.key
        if model is None or to is None or self._history is None:
            return
        if to == self._history.head:
            self.post_message(Refused(f"{to} is the head of {model} already"))
            return
        question = (
            f"Move the head of {model} from {self._history.head} to {to}, and prove its weights?\n"
            "Nothing is deleted: the head can be moved forward again the same way."
        )
        catalog = self.catalog
        self.confirm(
            question, "Roll back", command("rollback", model, to), lambda: _roll_back(catalog, model, to)
        )

    def action_revert(self) -> None:
        model, revision = self.model, self.rows.key
        if model is None or revision is None:
            return
        why_not = why_not_revert(self.catalog, model, revision)
        if why_not is not None:
            self.post_message(Refused(why_not))
            return
        question = (
            f"Take {revision} out of {model}, and keep all edits after it?\n"
            "This makes a new revision: take that one out to have the edit back."
        )
        catalog, spec = self.catalog, jobs.RevertSpec(model, revision)
        self.confirm(
            question,
            "Take it out",
            command("revert", model, revision),
            lambda: f"job {jobs.submit(catalog, spec).id} queued",
        )

    def action_score(self) -> None:
        if self.model is not None and self.rows.key is not None:
            target = f"{self.model}@{self.rows.key}"
            self.submit(jobs.EvaluationSpec(self.model, self.rows.key), command("eval", "run", target))

    def action_model(self, by: int) -> None:
        names = list(model_names(self.catalog))
        if len(names) > 1 and self.model in names:
            self.post_message(ModelChosen(names[(names.index(self.model) + by) % len(names)]))


def _roll_back(catalog: Catalog, model: str, to: str) -> str:
    """Move the head, on the disk when this returns, and start the proof."""
    with catalog.write(durable=True) as session:
        found = history.find_model(session, model)
        history.move_head(session, found, history.find_revision(session, found, to), "rollback")
    job = jobs.submit(catalog, jobs.VerifySpec(model, to))
    return f"head moved; job {job.id} proves its weights"


def _rows(found: History) -> list[Row]:
    known = [
        (row.id, row.parent) if isinstance(row, RevisionRow) else (str(row.id), None) for row in found.rows
    ]
    marks = [_MARKS.get(row.standing, "●") if isinstance(row, RevisionRow) else "!" for row in found.rows]
    rows = []
    for row, line in zip(found.rows, draw(known, marks), strict=True):
        if isinstance(row, Hurt):
            rows.append(Row(str(row.id), (line, str(row.id), Text("damaged", style="red")), hurt=True))
            continue
        head = row.id == found.head
        state = Text(f"{row.standing}, head" if head else row.standing, style="bold green" if head else "")
        if row.standing in ("taken out", "rolled back", "other branch"):
            state.stylize("dim")
        layers = ",".join(map(str, row.layers))
        cells = (line, row.id, state, row.message, row.method or "", layers, when(row.created))
        rows.append(Row(row.id, cells))
    return rows
