"""Traces as the screens show them: the list, and one fact's scores. See averages.py for those of a set."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select

from ...store.catalog import Catalog
from ...store.facts import find_fact_set
from ...store.tables import Fact, FactSet, Model, Trace, TraceResult
from ..estimates import Merged, merge
from .rows import Hurt, columns, read_row, read_rows

_T, _R, _M, _F = columns(Trace), columns(TraceResult), columns(Model), columns(FactSet)

# As engine.kinds has them (it imports torch) and in that order.
KINDS = ("hidden", "mlp", "attn", "severed-mlp", "severed-attn")


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
    corruption: str
    created: datetime

    @property
    def about(self) -> str:
        """The fact set with its size, or the one prompt."""
        if self.fact_set is not None:
            return f"{self.fact_set} ({self.results} fact{'s' * (self.results != 1)})"
        return self.prompt or "(nothing traced yet)"


@dataclass(frozen=True)
class Scores:
    """p(answer) for each token and layer with one kind of state restored in a window of layers.

    Cells that are not traced yet hold their estimate where there is one, and are marked so.
    """

    window: int
    cells: Merged

    @property
    def rows(self) -> tuple[tuple[float | None, ...], ...]:
        return self.cells.rows


@dataclass(frozen=True)
class ResultView:
    """One traced fact; while it is being traced it is not `finished`."""

    position: int
    prompt: str
    subject: str
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    answer: str
    high: float
    low: float
    kinds: dict[str, Scores]
    skipped: str | None
    finished: bool


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
            func.coalesce(func.json_extract(_T.protocol, "$.corruption"), ""),
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
        _R.position, _R.prompt, _R.subject, _R.tokens, _R.subject_begin, _R.subject_end, _R.answer, _R.high, _R.low,
        _R.scores, _R.estimate, _R.skipped, _R.finished,
    )  # fmt: skip
    with catalog.read() as session:
        ids = select(_R.id).where(_R.trace_id == trace_id).order_by(_R.position).limit(1).offset(index)
        found = session.connection().execute(ids).scalar()
        return None if found is None else read_row(session, query, _R.id, found, _result)


def index_of(catalog: Catalog, trace_id: int, position: int) -> int:
    """The number of the result of a fact: it grows as facts before it are done."""
    query = select(func.count()).where(_R.trace_id == trace_id, _R.position < position)
    with catalog.read() as session:
        return int(session.connection().execute(query).scalar() or 0)


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


def _row(*values: Any) -> TraceRow:
    kinds = tuple(str(kind) for kind in json.loads(values[6]))
    return TraceRow(*(*values[:6], kinds, *values[7:]))


def _result(*values: Any) -> ResultView:
    position, prompt, subject, tokens, begin, end, answer, high, low, scores, estimate, skipped, finished = (
        values
    )
    # What a finished trace lacks was not asked for; `retcon trace show` leaves it blank as well.
    guesses = {} if finished else estimate or {}
    kinds = {
        kind: Scores(int(table["window"]), merge(table["scores"], guesses.get(kind)))
        for kind, table in scores.items()
    }
    tokens = tuple(str(token) for token in tokens)
    for kind, table in kinds.items():
        if len(table.rows) != len(tokens) or len({len(row) for row in table.rows}) > 1:
            raise ValueError(f"its {kind} scores do not fit its tokens")
    return ResultView(
        position, prompt, subject, tokens, (begin, end), answer, high or 0.0, low or 0.0, kinds, skipped,
        bool(finished),
    )  # fmt: skip
