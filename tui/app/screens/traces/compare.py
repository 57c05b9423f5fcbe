"""The difference of two traces with the same number of layers, as one heat map."""

from typing import ClassVar

from rich.text import Text
from textual import on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.screen import ModalScreen
from textual.widgets import Static

from .....engine.tracing.rules import KINDS
from .....store.catalog.catalog import Catalog
from .....store.errors import InputError
from ....cli_equivalent import command
from ....presentation.text import sanitize, token_label
from ...data.averages import load_effects
from ...data.rows import UnreadableRow
from ...data.traces import TraceRow, load_result
from ...widgets.detail import one_line
from ...widgets.drawings import HeatMapDrawing
from ...widgets.heat_map import HeatMap

Table = tuple[tuple[float | None, ...], ...]
# (scores per kind, labels of the rows, range of the subject's rows)
Tables = tuple[dict[str, Table], tuple[str, ...], tuple[int, int]]


class CompareTraces(ModalScreen[None]):
    """The difference of the indirect effects, one kind at a time."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q,escape,backspace", "dismiss", "back"),
        Binding("tab", "kind", "kind", tooltip="the next kind of restored state"),
    ]

    def __init__(self, catalog: Catalog, one: TraceRow, other: TraceRow) -> None:
        """Raises InputError if the two traces cannot be compared."""
        super().__init__()
        self.one, self.other = one, other
        self.tables, self.names, self.subject = _differences(catalog, one, other)
        self._kind = next(iter(self.tables))

    def compose(self) -> ComposeResult:
        with Vertical(classes="box tall"):
            one, other = (f"{row.id} ({row.about})" for row in (self.one, self.other))
            yield Static(Text(sanitize(f"Trace {one} minus trace {other}"), "bold"))
            yield Static(classes="readout", markup=False)
            yield HeatMap()
            commands = " and ".join(command("trace", "show", row.id) for row in (self.one, self.other))
            yield Static(one_line(f"$ {commands}", "dim"))

    def on_mount(self) -> None:
        self.query_one(HeatMap).focus()
        self._draw(keep_cursor=False)

    def action_kind(self) -> None:
        kinds = list(self.tables)
        self._kind = kinds[(kinds.index(self._kind) + 1) % len(kinds)]
        self._draw(keep_cursor=True)

    def _draw(self, *, keep_cursor: bool) -> None:
        table = self.tables[self._kind]
        limit = max((abs(value) for row in table for value in row if value is not None), default=0.0) or 1.0
        kinds = " ".join(f"[{one}]" if one == self._kind else one for one in self.tables)
        name = f"{kinds} · effect of {self.one.id} minus that of {self.other.id}"
        picture = HeatMapDrawing(self.names, self.subject, table, -limit, limit, name, "difference")
        self.query_one(HeatMap).show(picture, Text(""), keep_cursor=keep_cursor)

    @on(HeatMap.Moved)
    def _moved(self) -> None:
        token, layer = self.query_one(HeatMap).cursor
        value = self.tables[self._kind][token][layer]
        value_text = "not traced in both" if value is None else f"{value:+.4f}"
        text = f"{token_label(self.names[token]).strip()} · layer {layer}: {value_text}"
        self.query_one(".readout", Static).update(Text(text))


def restrict_to_shared_roles(first: Tables, second: Tables) -> tuple[Tables, Tables]:
    """Both tables with only the token roles that both have: one set may have no middle subject tokens."""
    roles = tuple(role for role in first[1] if role in second[1])
    subject = (0, sum("subject" in role for role in roles))

    def restrict(tables: Tables) -> Tables:
        rows = [tables[1].index(role) for role in roles]
        return {kind: tuple(table[row] for row in rows) for kind, table in tables[0].items()}, roles, subject

    return restrict(first), restrict(second)


def _differences(catalog: Catalog, one: TraceRow, other: TraceRow) -> Tables:
    """The indirect effects of the first trace minus those of the second, by kind.

    Raises:
        InputError: the traces differ in their number of layers, have no kind in common, or only one has a fact set.
    """
    sets = [row.fact_set is not None for row in (one, other)]
    if sets[0] != sets[1]:
        raise InputError("only one of the traces has a fact set, so their rows do not correspond")
    first, second = _tables(catalog, one), _tables(catalog, other)
    kinds: list[str] = [kind for kind in KINDS if kind in first[0] and kind in second[0]]
    if not kinds:
        raise InputError("the traces share no kind")
    if one.fact_set is not None:
        first, second = restrict_to_shared_roles(first, second)
    elif len(first[1]) != len(second[1]):
        raise InputError(
            f"the prompts have {len(first[1])} and {len(second[1])} tokens: compare fact sets instead"
        )
    if any(len(first[0][kind][0]) != len(second[0][kind][0]) for kind in kinds):
        raise InputError("the models differ in their number of layers")
    tables = {kind: _minus(first[0][kind], second[0][kind]) for kind in kinds}
    names = tuple(a if a == b else f"{a}|{b}" for a, b in zip(first[1], second[1], strict=True))
    return tables, names, first[2]


def _tables(catalog: Catalog, row: TraceRow) -> Tables:
    """The indirect effects of a trace: the averages of a fact set, or those of its only fact."""
    if row.fact_set is not None:
        averages = load_effects(catalog, row.id)
        roles = next(iter(averages.values())).roles if averages else ()
        subject = (0, sum("subject" in role for role in roles))
        return {kind: effects.means for kind, effects in averages.items()}, roles, subject
    result = load_result(catalog, row.id, 0)
    if result is None or isinstance(result, UnreadableRow) or result.skip_reason is not None:
        return {}, (), (0, 0)
    tables = {
        kind: tuple(
            tuple(None if value is None else value - result.low for value in line) for line in scores.rows
        )
        for kind, scores in result.kinds.items()
    }
    return tables, result.tokens, result.subject_range


def _minus(one: Table, other: Table) -> Table:
    return tuple(
        tuple(None if a is None or b is None else a - b for a, b in zip(row, other_row, strict=True))
        for row, other_row in zip(one, other, strict=True)
    )
