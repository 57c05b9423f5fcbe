"""Traces: the list, and the scores of one fact. averages.py has the results of a fact set."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from ....store.catalog.catalog import Catalog
from ...presentation.heatmap import MergedScores, merge_attribution
from .filters import Field
from .rows import Listing, UnreadableRow, list_records, load_row


@dataclass(frozen=True)
class TraceRow:
    """One line of the list; `prompt` is that of the first fact."""

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
    swap: str | None
    created: datetime

    @property
    def about(self) -> str:
        """The fact set with its size, or the only prompt."""
        if self.fact_set is not None:
            return f"{self.fact_set} ({self.results} fact{'s' * (self.results != 1)})"
        return self.prompt or "(nothing traced yet)"


@dataclass(frozen=True)
class Scores:
    """p(answer) per token and layer with one kind of state restored in a window of layers.

    Cells without an exact score hold the attribution, if there is one, and are marked as estimated.
    """

    window: int
    cells: MergedScores

    @property
    def rows(self) -> tuple[tuple[float | None, ...], ...]:
        return self.cells.rows


@dataclass(frozen=True)
class ResultView:
    """The result of one fact. It is incomplete while its trace runs."""

    position: int
    prompt: str
    subject: str
    tokens: tuple[str, ...]
    subject_range: tuple[int, int]
    answer: str
    high: float
    low: float
    kinds: dict[str, Scores]
    skip_reason: str | None
    is_complete: bool


def load_result(catalog: Catalog, trace_id: int, index: int) -> ResultView | UnreadableRow | None:
    """The result at position `index` of a trace, from 0, in the order of the facts."""
    sql = "SELECT id FROM trace_result WHERE trace_id = ? ORDER BY position LIMIT 1 OFFSET ?"
    with catalog.read_connection() as connection:
        row = connection.execute(sql, [trace_id, index]).fetchone()
    return None if row is None else load_row(catalog, _RESULT, int(row[0]))


def result_index(catalog: Catalog, trace_id: int, position: int) -> int:
    """The index of a fact's result. It grows while earlier facts are traced."""
    sql = "SELECT count(*) FROM trace_result WHERE trace_id = ? AND position < ?"
    with catalog.read_connection() as connection:
        return int(connection.execute(sql, [trace_id, position]).fetchone()[0])


def _build_result(*values: Any) -> ResultView:
    position, prompt, subject, tokens, begin, end, answer, high, low, scores, estimate, skipped, finished = (
        values
    )
    # A complete result lacks only cells that were not requested; they stay blank, as in `retcon trace show`.
    attributions = {} if finished else json.loads(estimate or "{}")
    kinds = {
        kind: Scores(int(table["window"]), merge_attribution(table["scores"], attributions.get(kind)))
        for kind, table in json.loads(scores).items()
    }
    tokens = tuple(str(token) for token in json.loads(tokens))
    if not tokens and skipped is None:
        raise ValueError("the result has no tokens")
    for kind, table in kinds.items():
        if len(table.rows) != len(tokens) or len({len(row) for row in table.rows}) > 1:
            raise ValueError(f"the {kind} scores do not match the tokens")
    return ResultView(
        position, prompt, subject, tokens, (begin, end), answer, high or 0.0, low or 0.0, kinds, skipped,
        bool(finished),
    )  # fmt: skip


_OF_TRACE = "FROM trace_result AS r WHERE r.trace_id = t.id"
_FIRST = f"(SELECT r.prompt {_OF_TRACE} ORDER BY r.position LIMIT 1)"

TRACES = list_records(
    TraceRow,
    "trace AS t",
    {"model": "m.name", "fact_set": "f.name", "results": f"(SELECT count(*) {_OF_TRACE})", "prompt": _FIRST},
    joins="LEFT JOIN model AS m ON m.id = t.model_id LEFT JOIN fact_set AS f ON f.id = t.fact_set_id",
    fields={
        "id": Field("t.id", "number"),
        "model": Field("m.name"),
        "prompt": Field(f"coalesce(f.name, {_FIRST})"),
        "facts": Field("f.name"),
        "kinds": Field("t.kinds"),
        "noise": Field("t.noise"),
        "when": Field("t.created", "time"),
    },
)
_RESULT = Listing(
    table="trace_result",
    key="trace_result.id",
    columns=("position", "prompt", "subject", "tokens", "subject_begin", "subject_end", "answer", "high", "low",
             "scores", "estimate", "skip_reason", "is_complete"),
    build=_build_result,
)  # fmt: skip
