"""What a traced set says as a whole: average effects, how many facts they rest on, the layers that they propose."""

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

# The roles of store.effects (which imports numpy) in the order of the prompt, the subject's first.
ROLES = ("first subject", "middle subject", "last subject", "first after", "further", "last")
# Where the field reads the effect of a layer, and ROME its key.
LAST_SUBJECT = "last subject"

# How the reasons begin that the engine gives for leaving a fact out, and what they come to.
_REASONS = (
    ("the model's first choice", "wrong first choice"),
    ("no other subject of the set", "no swap partner"),
    ("the subject", "subject not found"),
    ("the tokenizer gives no token for the subject", "subject not found"),
)
_OTHER = "another reason"


@dataclass(frozen=True)
class Effects:
    """Average effects of one kind: for each role of a token, per layer, mean and interval."""

    roles: tuple[str, ...]
    means: tuple[tuple[float | None, ...], ...]
    intervals: dict[tuple[int, int], tuple[float, float, int]]

    @property
    def facts(self) -> int:
        """Over how many facts the mean goes."""
        return max((count for _, _, count in self.intervals.values()), default=0)


@dataclass(frozen=True)
class FactCounts:
    """How many facts of a set were traced, are being traced, and were left out for which reason."""

    traced: int
    unfinished: int
    left_out: tuple[tuple[str, int], ...]

    def __str__(self) -> str:
        parts = [f"{self.traced:,} fact{'s' * (self.traced != 1)} traced"]
        if self.unfinished:
            parts.append(f"{self.unfinished:,} not finished")
        if self.left_out:
            why = ", ".join(f"{number:,} {reason}" for reason, number in self.left_out)
            parts.append(f"{sum(number for _, number in self.left_out):,} left out ({why})")
        return ", ".join(parts)


def load_effects(catalog: Catalog, trace_id: int) -> dict[str, Effects]:
    """The average effects of a trace, per kind."""
    sql = (
        "SELECT kind, role, layer, mean, low, high, count FROM average_effect WHERE trace_id = ? ORDER BY id"
    )
    with catalog.read_connection() as connection:
        rows = connection.execute(sql, [trace_id]).fetchall()
    # The same roles and layers for every kind, so that a cursor stays where it is when the kind changes.
    roles = tuple(role for role in ROLES if any(row[1] == role for row in rows))
    layers = max((row[2] for row in rows), default=-1) + 1
    found: dict[str, Effects] = {}
    for kind in KINDS:
        mine = {(roles.index(row[1]), row[2]): row[3:] for row in rows if row[0] == kind and row[1] in roles}
        if mine:
            means = tuple(
                tuple(mine[role, layer][0] if (role, layer) in mine else None for layer in range(layers))
                for role in range(len(roles))
            )
            found[kind] = Effects(roles, means, {place: row[1:] for place, row in mine.items()})
    return found


def load_effect_rows(catalog: Catalog, trace_id: int) -> "list[AverageEffect]":
    """The same as rows, for pictures."""
    from sqlmodel import col, select

    from ....store.catalog.tables import AverageEffect

    query = select(AverageEffect).where(AverageEffect.trace_id == trace_id)
    with catalog.read() as session:
        return list(session.exec(query.order_by(col(AverageEffect.id))))


def cache_key(catalog: Catalog, trace_id: int) -> tuple[int, int]:
    """What changes whenever a tally may have changed, and is quick to read: the tally itself reads every row."""
    rows = "(SELECT count(*) FROM trace_result WHERE trace_id = ?)"
    newest = "(SELECT coalesce(max(id), 0) FROM average_effect WHERE trace_id = ?)"
    with catalog.read_connection() as connection:
        count, id = connection.execute(f"SELECT {rows}, {newest}", [trace_id, trace_id]).fetchone()
    return int(count), int(id)


def count_facts(catalog: Catalog, trace_id: int) -> FactCounts:
    """Count a trace's facts by what became of them."""
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
    from ...actions.locate import locate

    with convert_read_errors(f"trace {trace_id}"), catalog.read() as session:
        trace = session.get(Trace, trace_id)
        model = session.get(Model, trace.model_id) if trace is not None else None
        if trace is None or model is None:
            raise NotFound(f"there is no trace {trace_id} any more")
        layers = int(model.anatomy.get("layers", 0))
        # Without their scores: what a set of thousands of facts holds of them is large, and not asked for here.
        query = select(TraceResult).where(TraceResult.trace_id == trace_id)
        needed: Any = (TraceResult.high, TraceResult.low, TraceResult.skip_reason, TraceResult.is_complete)
        results = list(session.exec(query.options(load_only(*needed))))
    return locate(trace, results, load_effect_rows(catalog, trace_id), layers)


def _reason(skipped: str) -> str:
    return next((word for begin, word in _REASONS if skipped.startswith(begin)), _OTHER)
