"""The edits pane: the history of a model as a graph, with actions to edit, undo and publish."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual.binding import Binding, BindingType

from .....engine.jobs import control
from .....store.catalog.catalog import Catalog
from .....store.errors import CatalogError, InputError
from ....cli_equivalent import command, publish
from ....presentation.format import format_time
from ...data.edits import (
    MARKS,
    REVISION,
    EvaluationView,
    HistoryShape,
    RevisionDetail,
    RevisionRow,
    cache_key,
    load_evaluations,
    load_history_shape,
    load_retention,
    revision_listing,
)
from ...data.models import find_model_id, load_layer_counts
from ...data.rows import Key, Listing, Query, UnreadableRow, load_row, select_keys
from ...widgets.row_lines import Cells, Column
from ..base.pane import ActionRefused, ModelSelected, Pane, Parts, RunAction
from .revision_text import revision_parts

if TYPE_CHECKING:
    from .....engine.jobs.specs import PublishSpec
    from ....actions.history import MovedHead, Step


class EditsPane(Pane):
    """The history of one model."""

    heading = "Edits"
    detail_listing = REVISION
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
    write_actions = frozenset({"edit", "branch", "publish", "rollback", "revert", "score", "step"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("e", "edit", "edit", tooltip="edit a fact of this model"),
        Binding("E", "branch", "branch", tooltip="edit on top of this revision (a branch)", show=False),
        Binding("b", "rollback", "roll back", tooltip="move the head to this revision and verify its weights"),
        Binding("z", "step('undo')", "undo", key_display="z/Z", tooltip="undo the last move of the head"),
        Binding("Z", "step('redo')", "redo", tooltip="repeat the move that was undone last", show=False),
        Binding("x", "revert", "revert", tooltip="remove this edit and keep later ones"),
        Binding("s", "score", "evaluate", tooltip="evaluate this revision on its own requests"),
        Binding(
            "equals_sign", "compare", "compare", key_display="=",
            tooltip="compare two marked revisions, or this one and the head",
        ),
        Binding("M", "retention", "matrix", show=False, tooltip="retention of earlier edits at later revisions"),
        Binding("p", "publish", "publish", tooltip="preview and publish this revision"),
        Binding("m", "model(1)", "model", tooltip="the history of the next model"),
    ]  # fmt: skip

    def __init__(self, catalog: Catalog, id: str) -> None:
        self._model_id = 0
        self._models = 0
        self._shape: HistoryShape | None = None
        self._shape_key: tuple[Any, ...] = ()
        self._scores: list[EvaluationView | UnreadableRow] = []
        super().__init__(catalog, id)

    @property
    def listing(self) -> Listing[Any]:
        return revision_listing(self._model_id)

    def read_keys(self, query: Query, limit: int | None) -> Sequence[Key]:
        shape = self._load_shape(limit)
        if shape is None:
            return ()
        return (
            shape.keys[:limit] if query.is_default else select_keys(self.catalog, self.listing, query, limit)
        )

    def _load_shape(self, limit: int | None) -> HistoryShape | None:
        """The shape of the history, cached until it changes; for a long history its newest part first."""
        if self.model is None:
            return None
        key = (*cache_key(self.catalog, self.model), limit)
        # The complete shape contains the newest part.
        if self._shape_key not in (key, (*key[:-1], None)):
            self._shape, self._shape_key = load_history_shape(self.catalog, self.model, limit), key
        return self._shape

    def cells(self, data: RevisionRow) -> Cells:
        status = self._shape.status_of(data.id) if self._shape is not None else ""
        is_head = self._shape is not None and self._shape.head == data.id
        state = Text(f"{status}, head" if is_head else status, style="bold green" if is_head else "")
        if status in ("reverted", "rolled back", "other branch"):
            state.stylize("dim")
        layers, when = ",".join(map(str, data.layers)), format_time(data.created)
        return self._lane(data.id, status), data.id, state, data.message, data.method or "", layers, when

    def unreadable_cells(self, key: Key) -> Cells:
        status = self._shape.status_of(str(key)) if self._shape is not None else ""
        return self._lane(str(key), status), str(key), Text("unreadable", style="red")

    def _lane(self, id: str, status: str) -> str:
        """The lanes of the graph; outside the default order they are invalid, so only the mark."""
        is_ordered = self._shape is not None and self.rows.source.query.is_default
        return self._shape.lane(id) if self._shape is not None and is_ordered else MARKS.get(status, "●")

    def reload(self) -> None:
        names = list(load_layer_counts(self.catalog))
        self._models = len(names)
        if self.model is None or find_model_id(self.catalog, self.model) is None:
            self.model = names[0] if names else None
        self._model_id = (find_model_id(self.catalog, self.model) or 0) if self.model is not None else 0
        super().reload()
        self.refresh_bindings()

    def show_detail(self, *, is_new_row: bool) -> None:
        self._scores = load_evaluations(self.catalog, self._revision) if self._revision is not None else []
        super().show_detail(is_new_row=is_new_row)

    def parts(self, data: RevisionDetail) -> Parts:
        if self._shape is None:
            return []
        status, is_head = self._shape.status_of(data.id), self._shape.head == data.id
        return revision_parts(data, self._scores, status, head=is_head)

    def cli_equivalent(self, key: Key) -> str:
        return command("history", self.model or "")

    @property
    def _revision(self) -> str | None:
        key = self.rows.key
        return None if key is None else str(key)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the key that changes the model only if there are several models."""
        if super().check_action(action, parameters) is None:
            return None
        return action != "model" or self._models > 1

    def action_edit(self) -> None:
        from .form import EditForm

        self.open_form(EditForm(self.catalog, self.model))

    def action_branch(self) -> None:
        from .form import EditForm

        if self.model is not None and self._revision is not None:
            self.open_form(EditForm(self.catalog, f"{self.model}@{self._revision}"))

    def action_step(self, verb: "Step") -> None:
        """One step back or forward in the record of head moves."""
        model = self.model
        if model is None:
            return
        from ....actions.history import next_step, step_head

        move = next_step(self.catalog, model, verb)
        to, button = (move.from_revision if verb == "undo" else move.to_revision), verb.title()
        question = (
            f"{button} the {move.reason} of {format_time(move.created)} UTC?\n"
            f"Moves the head of {model} to {to} and verifies its weights.\n"
            f"Nothing is deleted: {'Z' if verb == 'undo' else 'z'} moves it back."
        )
        catalog = self.catalog
        self.confirm(
            question, button, command(verb, model), lambda: _verify(catalog, step_head(catalog, model, verb))
        )

    def action_retention(self) -> None:
        from ..base.detail_screen import DetailScreen
        from .retention import draw_retention

        if self.model is not None:
            rows = load_retention(self.catalog, self.model)
            screen = DetailScreen(partial(draw_retention, self.model, rows), "M")
            self.app.push_screen(screen.add_class("full"))

    def action_compare(self) -> None:
        if self.model is None or self._revision is None or self._shape is None:
            return
        marked = [str(row.key) for row in self.rows.selected_rows]
        pair = marked if len(marked) == 2 else [self._revision, self._shape.head or ""]
        if pair[0] == pair[1]:
            raise InputError(
                "select two revisions with space, or move the cursor to a revision other than the head"
            )
        from .compare import Compare

        self.app.push_screen(Compare(self.catalog, self.model, pair[0], pair[1], self._prompt_of(pair)))

    def _prompt_of(self, revisions: Sequence[str]) -> str:
        """The first prompt to compare: the first request of one of the revisions."""
        for id in revisions:
            data = load_row(self.catalog, REVISION, id)
            if isinstance(data, RevisionDetail) and data.requests:
                request = data.requests[0]
                return str(request.get("prompt", "")).replace("{}", str(request.get("subject", "")))
        return ""

    def action_rollback(self) -> None:
        model, to = self.model, self._revision
        if model is None or to is None or self._shape is None:
            return
        if to == self._shape.head:
            raise InputError(f"{to} is already the head of {model}")
        from ....actions.history import roll_back

        question = (
            f"Move the head of {model} from {self._shape.head} to {to} and verify its weights?\n"
            "Nothing is deleted: the head can be moved forward again the same way."
        )
        catalog = self.catalog
        self.confirm(
            question, "Roll back", command("rollback", model, to),
            lambda: _verify(catalog, roll_back(catalog, model, to)),
        )  # fmt: skip

    def action_revert(self) -> None:
        model, revision = self.model, self._revision
        if model is None or revision is None:
            return
        from ....actions.history import plan_revert

        spec, dependents = plan_revert(self.catalog, model, revision)
        question = (
            f"Revert {revision} of {model} and keep all later edits?\n"
            "This makes a new revision. To restore the edit, revert that revision."
        )
        if dependents:
            question += (
                f"\n{dependents} later edit{'s' * (dependents != 1)} of this subject depend"
                f"{'s' * (dependents == 1)} on this one. Evaluate after reverting."
            )
        catalog = self.catalog
        self.confirm(
            question, "Revert", command("revert", model, revision),
            lambda: f"job {control.submit(catalog, spec).id} queued",
        )  # fmt: skip

    def action_score(self) -> None:
        from .....engine.jobs.specs import EvaluationSpec
        from ....actions.edit import build_evaluation_spec

        if self.model is not None and self._revision is not None:
            target = f"{self.model}@{self._revision}"
            spec = build_evaluation_spec(self.catalog, EvaluationSpec(target))
            self.submit(spec, command("eval", "run", target))

    def action_publish(self) -> None:
        from ..publish.form import PublishForm

        if self.model is not None and self._revision is not None:
            self.app.push_screen(PublishForm(self.catalog, self.model, self._revision), self._preview)

    def _preview(self, spec: "PublishSpec | None") -> None:
        """Preview a publication before its job is submitted."""
        from ...data.publications import load_preview
        from ..publish.preview import PublishPreview

        if spec is None:
            return
        try:
            shown = load_preview(self.catalog, spec)
        except (InputError, CatalogError) as error:
            self.post_message(ActionRefused(str(error)))
            return
        self.app.push_screen(PublishPreview(spec, *shown[:2], token=shown[2]), self._publish)

    def _publish(self, spec: "PublishSpec | None") -> None:
        from ...data.publications import save_card, submit_publication

        if spec is not None:
            card = save_card(self.catalog, spec)
            catalog = self.catalog
            self.post_message(RunAction(publish(spec, card), lambda: submit_publication(catalog, spec)))

    def action_model(self, by: int) -> None:
        names = list(load_layer_counts(self.catalog))
        if len(names) > 1 and self.model in names:
            self.post_message(ModelSelected(names[(names.index(self.model) + by) % len(names)]))


def _verify(catalog: Catalog, moved: "MovedHead") -> str:
    """Start the job that verifies the weights of the new head."""
    job = control.submit(catalog, moved.verification)
    return f"head moved; job {job.id} verifies its weights"
