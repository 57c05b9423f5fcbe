"""The traces pane: where a model keeps facts, as heat maps."""

from typing import Any, ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from .....engine.tracing.rules import KINDS
from .....store.errors import CatalogError, InputError
from ....cli_equivalent import command
from ....presentation.format import format_time
from ....presentation.text import sanitize
from ...data.averages import Effects, FactCounts, cache_key, count_facts, load_effects, load_location
from ...data.rows import Key, Listing, UnreadableRow
from ...data.traces import TRACES, ResultView, TraceRow, load_result, result_index
from ...widgets.heat_map import HeatMap
from ...widgets.row_lines import Column, Row
from ..base.pane import ActionRefused, Pane, ShowCommand
from .pictures import (
    curves_text,
    draw_curves,
    draw_effects,
    draw_result,
    effect_text,
    result_text,
    settings_text,
)

_AVERAGE = -1


class TracesPane(Pane):
    """The traces. Page -1 of a set is the average over its facts, as a map or as curves; the others are facts."""

    heading = "Traces"
    columns = (
        Column("id", 6),
        Column("model", 12, drop=1),
        Column("prompt or facts", least=28, field="prompt"),
        Column("kinds", 15, drop=2),
        Column("when", 16, drop=3),
    )
    empty = "No traces yet: press t to find where a model keeps a fact."
    write_actions = frozenset({"trace", "edit", "picture"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "trace", "trace", tooltip="start a trace"),
        Binding("e", "edit", "edit", tooltip="write the fact at the layer of the cursor"),
        Binding("tab", "kind", "kind", key_display="tab", tooltip="the next kind of what is restored"),
        Binding("H", "kind('hidden')", "hidden states", show=False),
        Binding("M", "kind('mlp')", "MLPs", show=False),
        Binding("A", "kind('attn')", "attentions", show=False),
        Binding("m", "kind('severed-mlp')", "states with the MLPs severed", show=False),
        Binding("a", "kind('severed-attn')", "states with the attentions severed", show=False),
        Binding("c", "curves", "curves", tooltip="the averages as curves by layer (j k: other tokens), or as a map"),
        Binding("n", "page(1)", "fact", key_display="n/p", tooltip="the next fact of a traced set"),
        Binding(
            "p", "page(-1)", "fact before", show=False,
            tooltip="the fact before; first of all the average over the set",
        ),
        Binding("x", "picture", "picture", tooltip="draw what is shown to a PNG in the current folder"),
        Binding("L", "locate", "locate", tooltip="the layers that this trace proposes to edit"),
        Binding(
            "equals_sign", "compare", "compare", key_display="=", show=False,
            tooltip="the two marked traces as one map: where the first has more",
        ),
        Binding("s", "stretch", "scale: whole, or up to the highest cell", show=False),
    ]  # fmt: skip

    def make_detail(self) -> Widget:
        self.map = HeatMap()
        self.readout = Static(classes="readout", markup=False)
        self._kind, self._page, self._stretch = "hidden", 0, False
        # Whether averages are curves, and of which kind alone (None: of all).
        self._curves = False
        self._only: str | None = None
        self._result: ResultView | UnreadableRow | None = None
        self._effects: dict[str, Effects] = {}
        self._tally: tuple[tuple[int, int, int], FactCounts] | None = None
        return self.map

    def compose_detail(self) -> ComposeResult:
        yield self.readout
        yield self.map

    @property
    def listing(self) -> Listing[Any]:
        return TRACES

    def make_row(self, found: TraceRow | UnreadableRow) -> Row:
        return _row(found)

    def cli_equivalent(self, key: Key) -> str:
        return command("trace", "show", key)

    @property
    def _trace(self) -> TraceRow | None:
        return self.selected(TraceRow)

    def show_detail(self, key: Key | None, *, is_new_row: bool) -> None:
        row = self._trace
        if row is None:
            is_unreadable = self.selected(UnreadableRow)
            self._show_message(f"✗ trace {key}: {is_unreadable.reason}" if is_unreadable is not None else "")
            return
        if is_new_row:
            self._page = _AVERAGE if row.fact_set is not None and row.results > 1 else 0
            self._kind = next((kind for kind in KINDS if kind in row.kinds), "hidden")
            self._only = None
        elif self._page != _AVERAGE and isinstance(self._result, ResultView):
            # Facts before this one may have been done since: stay with it.
            self._page = result_index(self.catalog, row.id, self._result.position)
        self._effects = load_effects(self.catalog, row.id) if row.fact_set is not None else {}
        self._result = load_result(self.catalog, row.id, max(0, self._page))
        self._draw(keep_cursor=not is_new_row)
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys of what only a set of facts has are offered where there is one."""
        if super().check_action(action, parameters) is None:
            return None
        row = self._trace
        if action == "page":
            return row is not None and row.results > 1
        return action != "curves" or (row is not None and row.fact_set is not None)

    def _draw(self, *, keep_cursor: bool) -> None:
        row, result = self._trace, self._result
        if row is None:
            return
        if self._page == _AVERAGE:
            effects = self._effects.get(self._kind)
            if effects is None:
                self._show_message(
                    "No average yet: it comes with the first traced facts. Press n for the facts."
                )
            else:
                below = Text(f"\n{self._counted(row)}").append_text(settings_text(row, None))
                averages = draw_effects(effects, self._kind, tuple(self._effects))
                curves = draw_curves(self._effects, self._only) if self._curves else None
                self.map.show(curves or averages, below, keep_cursor=keep_cursor)
        elif result is None:
            self._show_message("Nothing traced yet: the job writes each fact here as soon as it is done.")
        elif isinstance(result, UnreadableRow):
            self._show_message(f"✗ result {result.id}: {result.reason}")
        elif result.skip_reason is not None:
            self._show_message(f"{sanitize(result.prompt)}\nNot traced: {result.skip_reason}")
        elif self._kind not in result.kinds:
            self._show_message(f"{self._kind} was not traced: {', '.join(result.kinds) or 'nothing'} was.")
        else:
            picture = draw_result(result, self._kind, stretch=self._stretch)
            self.map.show(picture, settings_text(row, result), keep_cursor=keep_cursor)

    def _show_message(self, text: str) -> None:
        lines = [sanitize(line) for line in text.split("\n")]
        self.map.show_text(Text("\n".join(lines)))
        self.readout.update("")

    def _counted(self, row: TraceRow) -> FactCounts:
        """How many facts the averages rest on. Read anew only when that may have changed: it takes a look at each."""
        stamp = (row.id, *cache_key(self.catalog, row.id))
        if self._tally is None or self._tally[0] != stamp:
            self._tally = stamp, count_facts(self.catalog, row.id)
        return self._tally[1]

    @on(HeatMap.Moved)
    def _moved(self, event: HeatMap.Moved) -> None:
        event.stop()
        row, result = self._trace, self._result
        if row is None or self.map.drawing is None:
            return
        # Where the cursor is now, not where it was when this was posted: another drawing may be shown since.
        token, layer = self.map.cursor
        kind = self._only if self._curves else self._kind
        if self._page != _AVERAGE:
            if not isinstance(result, ResultView) or self._kind not in result.kinds:
                return
            text, place = (
                result_text(result, self._kind, token, layer),
                f"fact {self._page + 1}/{row.results}",
            )
        elif kind is None:
            text, place = curves_text(self._effects, token, layer), "average"
        else:
            text, place = effect_text(self._effects[kind], token, layer), "average"
        text.append(f"  {place}" if row.results > 1 else "", style="dim")
        self.readout.update(text)

    def action_kind(self, kind: str | None = None) -> None:
        result, average = self._result, self._page == _AVERAGE
        known = self._effects if average else result.kinds if isinstance(result, ResultView) else {}
        kinds: list[str] = [one for one in KINDS if one in known]
        if kind is not None and kind not in kinds:
            self.post_message(ActionRefused(f"{kind} was not traced here: start a trace with t"))
        elif average and self._curves and kinds:
            turn = [None, *kinds]
            self._only = kind or turn[(turn.index(self._only) + 1) % len(turn)]
            self._draw(keep_cursor=True)
        elif kinds:
            after = kinds[(kinds.index(self._kind) + 1) % len(kinds)] if self._kind in kinds else kinds[0]
            self._kind = kind or after
            self._draw(keep_cursor=True)

    def action_curves(self) -> None:
        """From a map, also from that of a fact, to the curves; from the curves to the map of averages."""
        if not self._effects:
            self.post_message(
                ActionRefused("no averages yet: they come with the first traced facts of a set")
            )
            return
        self._curves = not self._curves or self._page != _AVERAGE
        self._page = _AVERAGE
        self._draw(keep_cursor=False)

    def action_page(self, by: int) -> None:
        row = self._trace
        if row is None:
            return
        first = _AVERAGE if self._effects and row.results > 1 else 0
        page = max(first, min(self._page + by, row.results - 1))
        if page != self._page:
            self._page = page
            self._result = load_result(self.catalog, row.id, max(0, page))
            self._draw(keep_cursor=False)

    def action_picture(self) -> None:
        from ..shell.saving import save_averages, save_result

        row, result = self._trace, self._result
        if row is not None and self._page == _AVERAGE and self._effects:
            self.post_message(save_averages(self.catalog, row))
        elif (
            row is not None
            and self._page != _AVERAGE
            and isinstance(result, ResultView)
            and result.skip_reason is None
            and self._kind in result.kinds
        ):
            self.post_message(save_result(row, result, self._kind))
        else:
            self.post_message(ActionRefused("there is nothing to draw here"))

    def action_locate(self) -> None:
        from ..shell.location import LocationView

        row = self._trace
        if row is None:
            return
        try:
            found = LocationView(row.id, row.model, load_location(self.catalog, row.id), self._counted(row))
        except (InputError, CatalogError) as error:
            self.post_message(ActionRefused(str(error)))
            return
        self.post_message(ShowCommand(command("trace", "locate", row.id)))
        self.app.push_screen(found)

    def action_compare(self) -> None:
        from .compare import CompareTraces

        marked = [row.value for row in self.rows.selected_rows if isinstance(row.value, TraceRow)]
        if len(marked) != 2:
            self.post_message(ActionRefused("mark two traces with space, then press ="))
            return
        try:
            found = CompareTraces(self.catalog, marked[0], marked[1])
        except InputError as error:
            self.post_message(ActionRefused(str(error)))
            return
        self.app.push_screen(found)

    def action_stretch(self) -> None:
        self._stretch = not self._stretch
        self._draw(keep_cursor=True)

    def action_trace(self) -> None:
        from .form import TraceForm

        result = self._result if isinstance(self._result, ResultView) and self.map.has_focus else None
        model = self._trace.model if self._trace is not None else self.model
        prompt, subject = (result.prompt, result.subject) if result is not None else ("", "")
        self.open_form(TraceForm(self.catalog, model, prompt, subject))

    def action_edit(self) -> None:
        from ..edits.form import EditForm

        row, result = self._trace, self._result
        if row is None:
            self.open_form(EditForm(self.catalog, self.model))
            return
        layer = self.map.cursor[1] if self.map.drawing is not None else None
        if self._page == _AVERAGE or not isinstance(result, ResultView):
            self.open_form(EditForm(self.catalog, row.model, layer=layer))
            return
        form = EditForm(
            self.catalog,
            row.model,
            prompt=result.prompt,
            subject=result.subject,
            target_true=result.answer.strip(),
            layer=layer,
        )
        self.open_form(form)


def _row(row: TraceRow | UnreadableRow) -> Row:
    if isinstance(row, UnreadableRow):
        return Row(row.id, (str(row.id), "", Text("damaged", style="red")), is_unreadable=True)
    cells = (str(row.id), row.model, row.about, ",".join(row.kinds), format_time(row.created))
    return Row(row.id, cells)
