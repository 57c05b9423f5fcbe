"""The traces pane: heat maps and curves of causal traces."""

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.widget import Widget
from textual.widgets import Static

from .....engine.tracing.rules import KINDS
from .....store.errors import InputError
from ....cli_equivalent import command
from ....presentation.format import format_time
from ....presentation.text import sanitize
from ...data.averages import Effects, FactCounts, cache_key, count_facts, load_effects, load_location
from ...data.rows import UnreadableRow
from ...data.traces import TRACES, ResultView, TraceRow, load_result, result_index
from ...widgets.heat_map import HeatMap
from ...widgets.row_lines import Cells, Column
from ..base.pane import Pane, ShowCommand
from . import pictures


class TracesPane(Pane):
    """The traces. The detail shows one fact, or the average over a set of facts as a map or as curves."""

    heading, noun = "Traces", "trace"
    listing = TRACES
    columns = (
        Column("id", 6),
        Column("model", 12, drop=1),
        Column("prompt or facts", least=28, field="prompt"),
        Column("kinds", 15, drop=2),
        Column("when", 16, drop=3),
    )
    empty = "No traces yet: press t to locate a fact in a model."
    write_actions = frozenset({"trace", "edit", "picture"})
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("t", "trace", "trace", tooltip="start a trace"),
        Binding("e", "edit", "edit", tooltip="edit the fact at the layer of the cursor"),
        Binding("tab", "kind", "kind", key_display="tab", tooltip="the next kind of restored state"),
        Binding("H", "kind('hidden')", "hidden states", show=False),
        Binding("M", "kind('mlp')", "MLPs", show=False),
        Binding("A", "kind('attn')", "attentions", show=False),
        Binding("m", "kind('severed-mlp')", "states with the MLPs severed", show=False),
        Binding("a", "kind('severed-attn')", "states with the attentions severed", show=False),
        Binding("c", "curves", "curves", tooltip="averages as curves by layer (j k: other tokens), or as a map"),
        Binding("n", "page(1)", "fact", key_display="n/p", tooltip="the next fact of a traced set"),
        Binding(
            "p", "page(-1)", "previous fact", show=False,
            tooltip="show the previous fact (from the first fact: the average)",
        ),
        Binding("x", "picture", "picture", tooltip="save the drawing as a PNG in the current folder"),
        Binding("L", "locate", "locate", tooltip="the layers that this trace proposes to edit"),
        Binding(
            "equals_sign", "compare", "compare", key_display="=", show=False,
            tooltip="difference of the two marked traces as one map",
        ),
        Binding("s", "stretch", "scale: up to the clean run, or up to the highest cell", show=False),
    ]  # fmt: skip

    def make_detail(self) -> Widget:
        self.map = HeatMap()
        self.readout = Static(classes="readout", markup=False)
        self._kind, self._stretch = "hidden", False
        # Index of the visible fact; None: the average over all facts.
        self._fact: int | None = 0
        # Whether averages appear as curves, and the only kind among them (None: all kinds).
        self._curves = False
        self._only: str | None = None
        self._result: ResultView | UnreadableRow | None = None
        self._effects: dict[str, Effects] = {}
        self._counts: tuple[tuple[int, int, int], FactCounts] | None = None
        return self.map

    def compose_detail(self) -> ComposeResult:
        yield self.readout
        yield self.map

    def cells(self, data: TraceRow) -> Cells:
        return str(data.id), data.model, data.about, ",".join(data.kinds), format_time(data.created)

    @property
    def _trace(self) -> TraceRow | None:
        return self.selected(TraceRow)

    def show_detail(self, *, is_new_row: bool) -> None:
        row = self._trace
        if row is None:
            unreadable = self.selected(UnreadableRow)
            self._show_message(
                f"✗ trace {unreadable.id}: {unreadable.reason}" if unreadable is not None else ""
            )
            return
        if is_new_row:
            self._fact = None if row.fact_set is not None and row.results > 1 else 0
            self._kind = next((kind for kind in KINDS if kind in row.kinds), "hidden")
            self._only = None
        elif self._fact is not None and isinstance(self._result, ResultView):
            # Earlier facts may have been traced since, so the index of this fact may have changed.
            self._fact = result_index(self.catalog, row.id, self._result.position)
        self._effects = load_effects(self.catalog, row.id) if row.fact_set is not None else {}
        self._result = load_result(self.catalog, row.id, self._fact or 0)
        self._draw(keep_cursor=not is_new_row)
        self.refresh_bindings()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Offer the keys for sets of facts only where the trace has a set."""
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
        if self._fact is None:
            effects = self._effects.get(self._kind)
            if effects is None:
                self._show_message(
                    "No average yet: it appears with the first traced facts. Press n for the facts."
                )
            else:
                below = Text(f"\n{self._fact_counts(row)}").append_text(pictures.settings_text(row, None))
                averages = pictures.draw_effects(effects, self._kind, tuple(self._effects))
                curves = pictures.draw_curves(self._effects, self._only) if self._curves else None
                self.map.show(curves or averages, below, keep_cursor=keep_cursor)
        elif result is None:
            self._show_message("Nothing traced yet: each fact appears here when the job has traced it.")
        elif isinstance(result, UnreadableRow):
            self._show_message(f"✗ result {result.id}: {result.reason}")
        elif result.skip_reason is not None:
            self._show_message(f"{sanitize(result.prompt)}\nNot traced: {result.skip_reason}")
        elif self._kind not in result.kinds:
            self._show_message(
                f"Kind {self._kind} was not traced. Traced kinds: {', '.join(result.kinds) or 'none'}."
            )
        else:
            picture = pictures.draw_result(result, self._kind, stretch=self._stretch)
            self.map.show(picture, pictures.settings_text(row, result), keep_cursor=keep_cursor)

    def _show_message(self, text: str) -> None:
        lines = [sanitize(line) for line in text.split("\n")]
        self.map.show_text(Text("\n".join(lines)))
        self.readout.update("")

    def _fact_counts(self, row: TraceRow) -> FactCounts:
        """Counts of traced and skipped facts; cached, because counting reads every result."""
        key = (row.id, *cache_key(self.catalog, row.id))
        if self._counts is None or self._counts[0] != key:
            self._counts = key, count_facts(self.catalog, row.id)
        return self._counts[1]

    @on(HeatMap.Moved)
    def _moved(self) -> None:
        row, result = self._trace, self._result
        if row is None or self.map.drawing is None:
            return
        # The current cursor, not that of the event: another drawing may be visible since.
        token, layer = self.map.cursor
        kind = self._only if self._curves else self._kind
        if self._fact is not None:
            if not isinstance(result, ResultView) or self._kind not in result.kinds:
                return
            text = pictures.result_text(result, self._kind, token, layer)
            label = f"fact {self._fact + 1}/{row.results}"
        elif kind is None:
            text, label = pictures.curves_text(self._effects, token, layer), "average"
        else:
            text, label = pictures.effect_text(self._effects[kind], token, layer), "average"
        text.append(f"  {label}" if row.results > 1 else "", style="dim")
        self.readout.update(text)

    def action_kind(self, kind: str | None = None) -> None:
        result, is_average = self._result, self._fact is None
        known = self._effects if is_average else result.kinds if isinstance(result, ResultView) else {}
        kinds: list[str] = [one for one in KINDS if one in known]
        if kind is not None and kind not in kinds:
            raise InputError(f"kind {kind} was not traced: press t to start a trace")
        if is_average and self._curves and kinds:
            choices = [None, *kinds]
            self._only = kind or choices[(choices.index(self._only) + 1) % len(choices)]
            self._draw(keep_cursor=True)
        elif kinds:
            following = kinds[(kinds.index(self._kind) + 1) % len(kinds)] if self._kind in kinds else kinds[0]
            self._kind = kind or following
            self._draw(keep_cursor=True)

    def action_curves(self) -> None:
        """Switch from any map to the curves of averages, and from the curves to the map of averages."""
        if not self._effects:
            raise InputError("no averages yet: they appear after the first fact of a set is traced")
        self._curves = not self._curves or self._fact is not None
        self._fact = None
        self._draw(keep_cursor=False)

    def action_page(self, by: int) -> None:
        row = self._trace
        if row is None:
            return
        # The average comes before the first fact.
        first = -1 if self._effects and row.results > 1 else 0
        current = -1 if self._fact is None else self._fact
        position = max(first, min(current + by, row.results - 1))
        if position != current:
            self._fact = position if position >= 0 else None
            self._result = load_result(self.catalog, row.id, max(0, position))
            self._draw(keep_cursor=False)

    def action_picture(self) -> None:
        row, result = self._trace, self._result
        if row is not None and self._fact is None and self._effects:
            self.post_message(pictures.save_averages(self.catalog, row))
        elif (
            row is not None
            and self._fact is not None
            and isinstance(result, ResultView)
            and result.skip_reason is None
            and self._kind in result.kinds
        ):
            self.post_message(pictures.save_result(row, result, self._kind))
        else:
            raise InputError("there is no drawing to save")

    def action_locate(self) -> None:
        from ..base.detail_screen import DetailScreen
        from .location import describe_location

        row = self._trace
        if row is None:
            return
        location = load_location(self.catalog, row.id)
        self.post_message(ShowCommand(command("trace", "locate", row.id)))
        parts = describe_location(row.id, row.model, location, self._fact_counts(row))
        self.app.push_screen(DetailScreen(lambda _: parts, "L"))

    def action_compare(self) -> None:
        from .compare import CompareTraces

        marked = [row.value for row in self.rows.selected_rows if isinstance(row.value, TraceRow)]
        if len(marked) != 2:
            raise InputError("mark two traces with space, then press =")
        self.app.push_screen(CompareTraces(self.catalog, *marked))

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
        request: dict[str, str] = {}
        if self._fact is not None and isinstance(result, ResultView):
            answer = result.answer.strip()
            request = {"prompt": result.prompt, "subject": result.subject, "target_true": answer}
        self.open_form(EditForm(self.catalog, row.model, layer=layer, **request))
