"""Traces as the screens show them: the list, one fact's scores, the average effects."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from ...store.catalog import Catalog
from ...store.facts import find_fact_set
from ...store.tables import AverageEffect, Fact, FactSet, Model, Trace, TraceResult
from .rows import Hurt, columns, read_row, read_rows

_T, _R, _M, _F = columns(Trace), columns(TraceResult), columns(Model), columns(FactSet)
_E = columns(AverageEffect)

KINDS = ("hidden", "mlp", "attn")


@dataclass(frozen=True)
class TraceRow:
    """One line of the list. `prompt` is the first fact's."""

    id: int
    model: str
    revision: str
    fact_set: str | None
    results: int
    prompt: str | None
    kinds: tuple[str, ...]
    noise: str
    noise_level: float | None
    samples: int
    seed: int
    created: datetime

    @property
    def about(self) -> str:
        """The fact set with its size, or the one prompt."""
        if self.fact_set is not None:
            return f"{self.fact_set} ({self.results} fact{'s' * (self.results != 1)})"
        return self.prompt or "(nothing traced yet)"


@dataclass(frozen=True)
class Scores:
    """p(answer) for each token and layer with one kind of state restored in a window of layers."""

    window: int
    rows: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class ResultView:
    """One traced fact."""

    prompt: str
    subject: str
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    answer: str
    high: float
    low: float
    kinds: dict[str, Scores]
    skipped: str | None


@dataclass(frozen=True)
class Effects:
    """Average effects of one kind: for each role of a token, per layer, mean and interval."""

    roles: tuple[str, ...]
    means: tuple[tuple[float | None, ...], ...]
    intervals: dict[tuple[int, int], tuple[float, float, int]]


def list_traces(catalog: Catalog) -> list[TraceRow | Hurt]:
    """The traces, newest first."""
    of_trace = _R.trace_id == _T.id
    first = select(_R.prompt).where(of_trace).order_by(_R.position).limit(1).scalar_subquery()
    results = select(func.count()).where(of_trace).scalar_subquery()
    query = (
        select(
            _T.id,
            _M.name,
            _T.revision,
            _F.name,
            results,
            first,
            func.json(_T.kinds),
            _T.noise,
            _T.noise_level,
            _T.samples,
            _T.seed,
            _T.created,
        )
        .join(Model.__table__, _M.id == _T.model_id)  # type: ignore[attr-defined]
        .outerjoin(FactSet.__table__, _F.id == _T.fact_set_id)  # type: ignore[attr-defined]
    )
    with catalog.read() as session:
        return read_rows(session, query, _T.id, _row)


def result_at(catalog: Catalog, trace_id: int, index: int) -> ResultView | Hurt | None:
    """The result number `index` of a trace, counted from 0 in the order of the facts."""
    query = select(
        _R.prompt, _R.subject, _R.tokens, _R.subject_begin, _R.subject_end, _R.answer, _R.high, _R.low, _R.scores,
        _R.skipped,
    )  # fmt: skip
    with catalog.read() as session:
        ids = select(_R.id).where(_R.trace_id == trace_id).order_by(_R.position).limit(1).offset(index)
        found = session.connection().execute(ids).scalar()
        return None if found is None else read_row(session, query, _R.id, found, _result)


def effects_of(catalog: Catalog, trace_id: int) -> dict[str, Effects]:
    """The average effects of a trace, per kind."""
    query = select(_E.kind, _E.role, _E.layer, _E.mean, _E.low, _E.high, _E.count)
    with catalog.read() as session:
        rows = session.connection().execute(query.where(_E.trace_id == trace_id).order_by(_E.id)).all()
    found: dict[str, Effects] = {}
    for kind in KINDS:
        mine = [row for row in rows if row[0] == kind]
        roles = [role for role in ROLES if any(row[1] == role for row in mine)]
        layers = max((row[2] for row in mine), default=-1) + 1
        means: list[list[float | None]] = [[None] * layers for _ in roles]
        intervals = {}
        for _, role, layer, mean, low, high, count in mine:
            if role in roles:
                means[roles.index(role)][layer] = mean
                intervals[roles.index(role), layer] = (low, high, count)
        if mine:
            found[kind] = Effects(tuple(roles), tuple(map(tuple, means)), intervals)
    return found


def fact_set_size(catalog: Catalog, name: str) -> int:
    """How many facts a set has.

    Raises:
        store.errors.NotFound: there is no such set; the message names those there are.
    """
    with catalog.read() as session:
        found = find_fact_set(session, name)
        facts = columns(Fact)
        query = select(func.count()).where(facts.fact_set_id == found.id)
        return int(session.connection().execute(query).scalar() or 0)


# The roles of engine.effects in the order of the prompt, the subject's first.
ROLES = ("first subject", "middle subject", "last subject", "first after", "further", "last")


def _row(*values: Any) -> TraceRow:
    kinds = tuple(str(kind) for kind in json.loads(values[6]))
    return TraceRow(*(*values[:6], kinds, *values[7:]))


def _result(*values: Any) -> ResultView:
    prompt, subject, tokens, begin, end, answer, high, low, scores, skipped = values
    kinds = {
        kind: Scores(
            int(table["window"]),
            tuple(tuple(None if value is None else float(value) for value in row) for row in table["scores"]),
        )
        for kind, table in scores.items()
    }
    tokens = tuple(str(token) for token in tokens)
    for kind, table in kinds.items():
        if len(table.rows) != len(tokens) or len({len(row) for row in table.rows}) > 1:
            raise ValueError(f"its {kind} scores do not fit its tokens")
    return ResultView(prompt, subject, tokens, (begin, end), answer, high or 0.0, low or 0.0, kinds, skipped)
