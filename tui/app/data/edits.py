"""The history of a model: revisions, their status and graph, evaluations, and the detail of one revision."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from ....engine.evaluation.metrics import compare_protocols
from ....store.catalog.catalog import Catalog
from ....store.history.lineage import find_reverted
from ...actions.damage import READ_ERRORS
from ...presentation.history_graph import draw_graph
from .filters import Condition, Field
from .rows import Listing, UnreadableRow, list_records, load_first_rows, parse_time

# Status of a revision relative to the head -> symbol in the graph.
MARKS = {
    "base": "◆",
    "live": "●",
    "revert": "↶",
    "reverted": "○",
    "rolled back": "◌",
    "other branch": "◌",
}
_EVALUATIONS = 10


@dataclass(frozen=True)
class RevisionRow:
    """One line of the history."""

    id: str
    parent: str | None
    kind: str
    reverts: str | None
    method: str | None
    layers: tuple[int, ...]
    requests: int
    message: str
    created: datetime


@dataclass(frozen=True)
class HistoryShape:
    """All revisions of a model. `statuses` and `lanes` omit revisions that are live on a single lane."""

    model: str
    head: str | None
    keys: tuple[str, ...]
    statuses: Mapping[str, str]
    lanes: Mapping[str, str]

    def status_of(self, id: str) -> str:
        """The status of a revision relative to the head."""
        return self.statuses.get(id, "live")

    def lane(self, id: str) -> str:
        """The lanes of the graph beside a revision."""
        return self.lanes.get(id, MARKS["live"])


@dataclass(frozen=True)
class _Step:
    id: str
    parent: str | None
    kind: str
    reverts: str | None


@dataclass(frozen=True)
class EditRetention:
    """An earlier edit: its number of requests, and how many are still correct, by two measures."""

    edit: str
    requests: int
    first_choice: int
    free: int


_RETAINED = ("edit", "requests", "first_choice", "free")


@dataclass(frozen=True)
class EvaluationView:
    """One evaluation: scores (name -> (value, low, high, count)), protocol, and the parent's scores.

    `parent` is the newest comparable evaluation of the parent revision. If none is comparable, `difference` names the
    difference to the newest one.
    """

    id: int
    facts: str
    scores: dict[str, tuple[float, float, float, int]]
    created: datetime
    protocol: dict[str, Any] = field(default_factory=dict)
    retention: tuple[EditRetention, ...] = ()
    parent: "EvaluationView | None" = None
    difference: str = ""


@dataclass(frozen=True)
class RevisionDetail:
    """The detail of one revision."""

    id: str
    parent: str | None
    kind: str
    method: str | None
    hparams: dict[str, Any]
    seed: int | None
    requests: list[dict[str, Any]]
    statistics: dict[str, Any]
    covariances: list[int]
    message: str
    fingerprint: str
    created: datetime


# With thousands of requests, reading one revision takes longer than the other reads.
REVISION = list_records(RevisionDetail, "revision")


def load_history_shape(catalog: Catalog, model: str, limit: int | None = None) -> HistoryShape | None:
    """The shape of a history, or of its newest revisions; None if the model does not exist."""
    with catalog.read_connection() as connection:
        model_row = connection.execute("SELECT id, head FROM model WHERE name = ?", [model]).fetchone()
        if model_row is None:
            return None
        sql = "SELECT id, parent, kind, reverts FROM revision WHERE model_id = ? ORDER BY rowid DESC LIMIT ?"
        rows = connection.execute(sql, [model_row[0], -1 if limit is None else limit])
        steps = [_Step(*row) for row in rows]
    statuses = _compute_statuses(steps, model_row[1])
    marks = [MARKS[statuses.get(step.id, "live")] for step in steps]
    lines = draw_graph([(step.id, step.parent) for step in steps], marks)
    lanes = {step.id: line for step, line in zip(steps, lines, strict=True) if line != MARKS["live"]}
    return HistoryShape(model, model_row[1], tuple(step.id for step in steps), statuses, lanes)


def cache_key(catalog: Catalog, model: str) -> tuple[Any, ...]:
    """A key that changes whenever the shape of the history may have changed."""
    with catalog.read_connection() as connection:
        newest = connection.execute("SELECT max(rowid) FROM revision").fetchone()
        head = connection.execute("SELECT id, head FROM model WHERE name = ?", [model]).fetchone()
    return (model, head, newest)


def revision_listing(model_id: int) -> Listing[RevisionRow]:
    """The listing of a model's history."""
    return list_records(
        RevisionRow,
        "revision",
        {
            "layers": "coalesce(json_extract(revision.hparams, '$.layers'), '[]')",
            "requests": "json_array_length(revision.requests)",
        },
        fields={
            "revision": Field("revision.id"),
            "what": Field("revision.message"),
            "kind": Field("revision.kind"),
            "method": Field("coalesce(revision.method, '')"),
            "layer": Field(
                "CASE WHEN json_valid(revision.hparams) THEN json_extract(revision.hparams, '$.layers[0]') END",
                "number",
            ),
            "requests": Field(
                "CASE WHEN json_valid(revision.requests) THEN json_array_length(revision.requests) END",
                "number",
            ),
            "when": Field("revision.created", "time"),
        },
        # Not by id (a digest) or time (clocks may step back): a parent is always saved before its children.
        order="revision.rowid",
        scope=Condition("revision.model_id = ?", (model_id,)),
    )


def load_model_name(catalog: Catalog, revision: str) -> str | None:
    """The model of a revision; None if the revision does not exist."""
    sql = "SELECT m.name FROM revision AS r JOIN model AS m ON m.id = r.model_id WHERE r.id = ?"
    with catalog.read_connection() as connection:
        row = connection.execute(sql, [revision]).fetchone()
    return None if row is None else str(row[0])


def load_evaluations(catalog: Catalog, revision: str) -> list[EvaluationView | UnreadableRow]:
    """The evaluations of a revision, newest first, each with a comparable evaluation of the parent."""
    with catalog.read_connection() as connection:
        parent = connection.execute("SELECT parent FROM revision WHERE id = ?", [revision]).fetchone()
    own = load_first_rows(catalog, _evaluations(revision), _EVALUATIONS)
    if not own or parent is None or parent[0] is None:
        return own
    parent_evaluations = load_first_rows(catalog, _evaluations(parent[0]), _EVALUATIONS)
    return [_with_parent(one, parent_evaluations) if isinstance(one, EvaluationView) else one for one in own]


@dataclass(frozen=True)
class RetentionRow:
    """The retention of earlier edits at one revision."""

    revision: str
    message: str
    retained: tuple[EditRetention, ...]


def load_retention(catalog: Catalog, model: str) -> list[RetentionRow]:
    """Retention from the newest evaluation of each revision, newest revision first."""
    sql = (
        "SELECT r.id, r.message, e.retention FROM evaluation AS e JOIN revision AS r ON r.id = e.revision "
        "JOIN model AS m ON m.id = r.model_id WHERE m.name = ? AND e.retention != '[]' ORDER BY r.rowid DESC, e.id DESC"
    )
    rows: dict[str, RetentionRow] = {}
    with catalog.read_connection() as connection:
        for id, message, retention in connection.execute(sql, [model]):
            try:
                retained = _parse_retention(retention)
            except READ_ERRORS:
                continue  # the detail of the revision shows the evaluation as unreadable
            rows.setdefault(id, RetentionRow(id, message, retained))
    return list(rows.values())


def _parse_retention(text: str) -> tuple[EditRetention, ...]:
    return tuple(EditRetention(**{name: one[name] for name in _RETAINED}) for one in json.loads(text))


def _with_parent(
    one: EvaluationView, parent_evaluations: list[EvaluationView | UnreadableRow]
) -> EvaluationView:
    known = [other for other in parent_evaluations if isinstance(other, EvaluationView)]
    differing = [compare_protocols(other.protocol, one.protocol) for other in known]
    for other, differences in zip(known, differing, strict=True):
        if not differences:
            return replace(one, parent=other)
    if not known:
        return one
    why = ", ".join(map(str, differing[0]))
    return replace(
        one, difference=f"the parent's evaluation {known[0].id} cannot be compared: different {why}"
    )


def _compute_statuses(steps: list[_Step], head: str | None) -> dict[str, str]:
    """Status of each revision that is not live. `steps` is ordered from new to old."""
    known = {step.id: step for step in steps}
    ancestors = _ancestors(known, head)
    ancestor_ids, reverted = {step.id for step in ancestors}, find_reverted(ancestors)
    after: set[str] = set()  # the head and its descendants
    statuses: dict[str, str] = {}
    for step in reversed(steps):
        if step.id == head or step.parent in after:
            after.add(step.id)
        if step.id in reverted:
            statuses[step.id] = "reverted"
        elif step.id not in ancestor_ids:
            statuses[step.id] = "rolled back" if step.id in after else "other branch"
        elif step.kind != "edit":
            statuses[step.id] = step.kind
    return statuses


def _ancestors(known: Mapping[str, _Step], to: str | None) -> list[_Step]:
    """The revisions from the base (or the oldest known one) to a revision."""
    path: dict[str, _Step] = {}
    while to is not None and to in known and to not in path:
        path[to] = known[to]
        to = known[to].parent
    return list(path.values())[::-1]


def _evaluations(revision: str) -> "Listing[EvaluationView]":
    return Listing(
        table="evaluation AS e",
        key="e.id",
        joins="LEFT JOIN fact_set AS f ON f.id = e.fact_set_id",
        columns=("e.id", "f.name", "e.metrics", "e.created", "e.protocol", "e.retention"),
        build=_build_evaluation,
        scope=Condition("e.revision = ?", (revision,)),
    )


def _build_evaluation(
    id: int, facts: str | None, metrics: str, created: str, protocol: str, retention: str
) -> EvaluationView:
    scores = {
        name: (float(one["value"]), float(one["low"]), float(one["high"]), int(one["count"]))
        for name, one in json.loads(metrics).items()
    }
    parsed: dict[str, Any] = json.loads(protocol)
    facts_text = facts or parsed.get("facts", "its own requests")
    return EvaluationView(
        id, facts_text, scores, parse_time(created), parsed, retention=_parse_retention(retention)
    )
