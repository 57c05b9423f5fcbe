"""The traces pane: where a model keeps facts, as heat maps."""

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from ..data.rows import Hurt
from ..data.traces import KINDS, Effects, ResultView, TraceRow, effects_of, list_traces, result_at
from ..plain import plain
from ..twin import command
from ..widgets.heat_map import HeatMap
from ..widgets.rows import Column, Row
from .edit_form import EditForm
from .pane import Pane, Refused
from .pictures import cell_text, draw_effects, draw_result, settings_text
from .show import when
from .trace_form import TraceForm

_AVERAGE = -1


class TracesPane(Pane):
    """The traces. Page -1 of a traced set is the average over its facts, the others are the facts."""

    heading = "Traces"
    columns = (
        Column("id", 4),
        Column("model", 12, drop=1),
        Column("prompt or facts", least=28),
        Column("kinds", 15, drop=2),
        Column("when", 16, drop=3),
    )
    empty = "No traces yet: press t to find where a model keeps a fact."
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "trace", "trace", tooltip="start a trace"),
        Binding("e", "edit", "edit here", tooltip="write the fact at the layer of the cursor"),
        Binding("tab", "kind", "next kind", key_display="tab", tooltip="the next of hidden, mlp, attn"),
        Binding("H", "kind('hidden')", "hidden states", show=False),
        Binding("M", "kind('mlp')", "MLPs", show=False),
        Binding("A", "kind('attn')", "attentions", show=False),
        Binding("n", "page(1)", "next fact", tooltip="the next fact of a traced set"),
        Binding(
            "p", "page(-1)", "fact before", tooltip="the fact before; first of all the average over the set"
        ),
        Binding("s", "stretch", "scale: whole, or up to the highest cell", show=False),
    ]

    def make_detail(self) -> Widget:
        self.map = HeatMap()
        self.readout = Static(classes="readout", markup=False)
        self._found: dict[str, TraceRow | Hurt] = {}
        self._kind, self._page, self._stretch = "hidden", 0, False
        self._result: ResultView | Hurt | None = None
        self._effects: dict[str, Effects] = {}
        return self.map

    def compose_detail(self) -> ComposeResult:
        yield self.readout
        yield self.map

    def read_rows(self) -> list[Row]:
        self._found = {str(row.id): row for row in list_traces(self.catalog)}
        return [_row(row) for row in self._found.values()]

    def twin(self, key: str) -> str:
        return command("trace", "show", key)

    @property
    def _trace(self) -> TraceRow | None:
        row = self._found.get(self.rows.key or "")
        return row if isinstance(row, TraceRow) else None

    def show_detail(self, key: str | None, *, fresh: bool) -> None:
        row = self._trace
        if row is None:
            hurt = self._found.get(key or "")
            self._say(f"✗ trace {key}: {hurt.reason}" if isinstance(hurt, Hurt) else "")
            return
        if fresh:
            self._page = _AVERAGE if row.fact_set is not None and row.results > 1 else 0
            self._kind = next((kind for kind in KINDS if kind in row.kinds), "hidden")
        self._effects = effects_of(self.catalog, row.id) if row.fact_set is not None else {}
        self._result = result_at(self.catalog, row.id, max(0, self._page))
        self._draw(keep_cursor=not fresh)
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """The keys that turn pages are offered where there is more than one."""
        return not (action == "page" and (self._trace is None or self._trace.results < 2))

    def _draw(self, *, keep_cursor: bool) -> None:
        row, result = self._trace, self._result
        if row is None:
            return
        if self._page == _AVERAGE:
            effects = self._effects.get(self._kind)
            if effects is None:
                self._say("No average yet: it comes with the first traced facts. Press n for the facts.")
            else:
                picture = draw_effects(effects, self._kind, tuple(self._effects))
                self.map.show(picture, settings_text(row, None), keep_cursor=keep_cursor)
        elif result is None:
            self._say("Nothing traced yet: the job writes each fact here as soon as it is done.")
        elif isinstance(result, Hurt):
            self._say(f"✗ result {result.id}: {result.reason}")
        elif result.skipped is not None:
            self._say(f"{plain(result.prompt)}\nNot traced: {result.skipped}")
        elif self._kind not in result.kinds:
            self._say(f"{self._kind} was not traced: {', '.join(result.kinds) or 'nothing'} was.")
        else:
            picture = draw_result(result, self._kind, stretch=self._stretch)
            self.map.show(picture, settings_text(row, result), keep_cursor=keep_cursor)

    def _say(self, text: str) -> None:
        lines = [plain(line) for line in text.split("\n")]
        self.map.show_text(Text("\n".join(lines)))
        self.readout.update("")

    @on(HeatMap.Moved)
    def _moved(self, event: HeatMap.Moved) -> None:
        event.stop()
        row = self._trace
        if row is None:
            return
        place = "average" if self._page == _AVERAGE else f"fact {self._page + 1}/{row.results}"
        if self._page == _AVERAGE:
            shown: Effects | ResultView | Hurt | None = self._effects.get(self._kind)
        else:
            shown = self._result
        if isinstance(shown, Effects | ResultView):
            text = cell_text(shown, self._kind, event.token, event.layer)
            text.append(f"  {place}" if row.results > 1 else "", style="dim")
            self.readout.update(text)

    def action_kind(self, kind: str | None = None) -> None:
        result = self._result
        known = (
            tuple(self._effects)
            if self._page == _AVERAGE
            else tuple(result.kinds)
            if isinstance(result, ResultView)
            else ()
        )
        kinds = [one for one in KINDS if one in known]
        if kind is None and kinds:
            kind = kinds[(kinds.index(self._kind) + 1) % len(kinds)] if self._kind in kinds else kinds[0]
        if kind is not None and kind in kinds:
            self._kind = kind
            self._draw(keep_cursor=True)
        elif kind is not None:
            self.post_message(Refused(f"{kind} was not traced here: start a trace with t"))

    def action_page(self, by: int) -> None:
        row = self._trace
        if row is None:
            return
        first = _AVERAGE if self._effects and row.results > 1 else 0
        page = max(first, min(self._page + by, row.results - 1))
        if page != self._page:
            self._page = page
            self._result = result_at(self.catalog, row.id, max(0, page))
            self._draw(keep_cursor=False)

    def action_stretch(self) -> None:
        self._stretch = not self._stretch
        self._draw(keep_cursor=True)

    def action_trace(self) -> None:
        result = self._result if isinstance(self._result, ResultView) and self.map.has_focus else None
        model = self._trace.model if self._trace is not None else self.model
        prompt, subject = (result.prompt, result.subject) if result is not None else ("", "")
        self.fill(TraceForm(self.catalog, model, prompt, subject))

    def action_edit(self) -> None:
        row, result = self._trace, self._result
        if row is None:
            self.fill(EditForm(self.catalog, self.model))
            return
        layer = self.map.cursor[1] if self.map.picture is not None else None
        if self._page == _AVERAGE or not isinstance(result, ResultView):
            self.fill(EditForm(self.catalog, row.model, layer=layer))
            return
        form = EditForm(
            self.catalog,
            row.model,
            prompt=result.prompt,
            subject=result.subject,
            target_true=result.answer.strip(),
            layer=layer,
        )
        self.fill(form)


def _row(row: TraceRow | Hurt) -> Row:
    if isinstance(row, Hurt):
        return Row(str(row.id), (str(row.id), "", Text("damaged", style="red")), hurt=True)
    cells = (str(row.id), row.model, row.about, ",".join(row.kinds), when(row.created))
    return Row(str(row.id), cells)
