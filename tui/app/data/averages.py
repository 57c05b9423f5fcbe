"""Results of a traced fact set: average effects, counts of facts, and the layers that they propose."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ....engine.tracing.rules import KINDS
from ....store.catalog.catalog import Catalog
from ....store.errors import NotFound
from ...actions.damage import convert_read_errors

if TYPE_CHECKING:
    from ....store.catalog.tables import AverageEffect
    from ...actions.locate import Location

# The token roles of store.effects, which imports NumPy, in the order of the prompt.
ROLES = ("first subject", "middle subject", "last subject", "first after", "further", "last")
# The role at which the field reads the effect of a layer, and at which ROME takes its key.
LAST_SUBJECT = "last subject"

# Prefixes of the engine's reasons to skip a fact, and their short form.
_REASONS = (
    ("the model's first choice", "wrong first choice"),
    ("no other subject of the set", "no swap partner"),
    ("the subject", "subject not found"),
    ("the tokenizer gives no token for the subject", "subject not found"),
)
_OTHER = "another reason"


@dataclass(frozen=True)
class Effects:
    """Average effects of one kind: per token role and layer the mean and its interval."""

    roles: tuple[str, ...]
    means: tuple[tuple[float | None, ...], ...]
    intervals: dict[tuple[int, int], tuple[float, float, int]]

    @property
    def facts(self) -> int:
        """Number of facts in the mean."""
        return max((count for _, _, count in self.intervals.values()), default=0)


@dataclass(frozen=True)
class FactCounts:
    """Numbers of traced, unfinished and skipped facts of a set, with the reasons to skip."""

    traced: int
    unfinished: int
    skipped_by_reason: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        parts = [f"{self.traced:,} fact{'s' * (self.traced != 1)} traced"]
        if self.unfinished:
            parts.append(f"{self.unfinished:,} not finished")
        if self.skipped_by_reason:
            why = ", ".join(f"{number:,} {reason}" for reason, number in self.skipped_by_reason)
            parts.append(f"{sum(number for _, number in self.skipped_by_reason):,} skipped ({why})")
        return ", ".join(parts)


def load_effects(catalog: Catalog, trace_id: int) -> dict[str, Effects]:
    """Kind -> average effects of a trace."""
    sql = (
        "SELECT kind, role, layer, mean, low, high, count FROM average_effect WHERE trace_id = ? ORDER BY id"
    )
    with catalog.read_connection() as connection:
        rows = connection.execute(sql, [trace_id]).fetchall()
    # The same roles and layers for each kind, so that the cursor keeps its place when the kind changes.
    roles = tuple(role for role in ROLES if any(row[1] == role for row in rows))
    layers = max((row[2] for row in rows), default=-1) + 1
    effects: dict[str, Effects] = {}
    for kind in KINDS:
        cells = {(roles.index(row[1]), row[2]): row[3:] for row in rows if row[0] == kind and row[1] in roles}
        if cells:
            means = tuple(
                tuple(cells[role, layer][0] if (role, layer) in cells else None for layer in range(layers))
                for role in range(len(roles))
            )
            effects[kind] = Effects(roles, means, {place: row[1:] for place, row in cells.items()})
    return effects


def load_effect_rows(catalog: Catalog, trace_id: int) -> "list[AverageEffect]":
    """The average effects as table rows, for figures."""
    from sqlmodel import col, select

    from ....store.catalog.tables import AverageEffect

    query = select(AverageEffect).where(AverageEffect.trace_id == trace_id)
    with catalog.read() as session:
        return list(session.exec(query.order_by(col(AverageEffect.id))))


def cache_key(catalog: Catalog, trace_id: int) -> tuple[int, int]:
    """A key that changes whenever the counts may have changed. Counting itself reads every result."""
    rows = "(SELECT count(*) FROM trace_result WHERE trace_id = ?)"
    newest = "(SELECT coalesce(max(id), 0) FROM average_effect WHERE trace_id = ?)"
    with catalog.read_connection() as connection:
        count, id = connection.execute(f"SELECT {rows}, {newest}", [trace_id, trace_id]).fetchone()
    return int(count), int(id)


def count_facts(catalog: Catalog, trace_id: int) -> FactCounts:
    """Count the traced, unfinished and skipped facts of a trace."""
    with catalog.read_connection() as connection:
        rows = connection.execute(
            "SELECT skip_reason, is_complete FROM trace_result WHERE trace_id = ?", [trace_id]
        ).fetchall()
    reasons = Counter(_reason(str(skipped)) for skipped, _ in rows if skipped is not None)
    traced = sum(skipped is None and bool(finished) for skipped, finished in rows)
    unfinished = sum(skipped is None and not finished for skipped, finished in rows)
    return FactCounts(traced, unfinished, tuple(reasons.most_common()))


def load_location(catalog: Catalog, trace_id: int) -> "Location":
    """The layers that a trace proposes to edit.

    Raises:
        store.errors.InputError: nothing was traced yet that could propose one.
        store.errors.CatalogError: a row that was needed is damaged.
    """
    from sqlalchemy.orm import load_only
    from sqlmodel import select

    from ....store.catalog.tables import Model, Trace, TraceResult
    from ...actions.locate import suggest_layers

    with convert_read_errors(f"trace {trace_id}"), catalog.read() as session:
        trace = session.get(Trace, trace_id)
        model = session.get(Model, trace.model_id) if trace is not None else None
        if trace is None or model is None:
            raise NotFound(f"there is no trace {trace_id} any more")
        layers = int(model.anatomy.get("layers", 0))
        # Without scores: those of thousands of facts are large, and not needed here.
        query = select(TraceResult).where(TraceResult.trace_id == trace_id)
        needed: Any = (TraceResult.high, TraceResult.low, TraceResult.skip_reason, TraceResult.is_complete)
        results = list(session.exec(query.options(load_only(*needed))))
    return suggest_layers(trace, results, load_effect_rows(catalog, trace_id), layers)


def _reason(skipped: str) -> str:
    return next((word for begin, word in _REASONS if skipped.startswith(begin)), _OTHER)
