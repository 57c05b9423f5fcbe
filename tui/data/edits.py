"""The history of a model as the screens show it: revisions, which of them count, and one in detail."""

import json
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from sqlalchemy import func, literal_column, select

from ...engine import jobs
from ...store import history
from ...store.catalog import Catalog
from ...store.errors import CatalogError, InputError
from ...store.tables import Evaluation, FactSet, Model, Revision
from .rows import Hurt, columns, read_row, read_rows, readable

_V, _M, _E, _F = columns(Revision), columns(Model), columns(Evaluation), columns(FactSet)


@dataclass(frozen=True)
class RevisionRow:
    """One line of the history. `standing` says in a word what it is to the head."""

    id: str
    parent: str | None
    kind: str
    reverts: str | None
    method: str | None
    layers: tuple[int, ...]
    requests: int
    message: str
    created: datetime
    standing: str = ""


@dataclass(frozen=True)
class History:
    """A model's revisions, newest first."""

    model: str
    head: str | None
    rows: tuple[RevisionRow | Hurt, ...]

    @property
    def live(self) -> int:
        """How many edits make up the head's weights."""
        return sum(isinstance(row, RevisionRow) and row.standing == "live" for row in self.rows)


@dataclass(frozen=True)
class EvaluationView:
    """Scores of one evaluation: name -> (value, low, high, count), how they came about, and those of the parent.

    `parent` is the newest evaluation of the parent revision that may be compared with this one; where the parent has
    some but none may, `differs` says in what its newest differs.
    """

    id: int
    facts: str
    scores: dict[str, tuple[float, float, float, int]]
    created: datetime
    protocol: dict[str, Any] = field(default_factory=dict)
    parent: "EvaluationView | None" = None
    differs: str = ""


@dataclass(frozen=True)
class RevisionDetail:
    """All that is known of one revision."""

    id: str
    parent: str | None
    kind: str
    method: str | None
    hparams: dict[str, Any]
    seed: int | None
    requests: list[dict[str, Any]]
    figures: dict[str, Any]
    covariances: list[int]
    message: str
    fingerprint: str
    created: datetime


def history_of(catalog: Catalog, model: str) -> History | None:
    """The history of a model, None if there is no such model."""
    hparams = func.json_extract(_V.hparams, "$.layers")
    query = select(
        _V.id, _V.parent, _V.kind, _V.reverts, _V.method, hparams, func.json_array_length(_V.requests), _V.message,
        _V.created,
    )  # fmt: skip
    with catalog.read() as session:
        found = session.connection().execute(select(_M.id, _M.head).where(_M.name == model)).first()
        if found is None:
            return None
        rows = read_rows(session, query.where(_V.model_id == found[0]), _V.id, _row, order=_SAVED)
    return History(model, found[1], tuple(_with_standing(rows, found[1])))


def revision_detail(catalog: Catalog, id: str) -> RevisionDetail | Hurt | None:
    """One revision; with thousands of requests this is the one read that takes longer."""
    query = select(
        _V.id, _V.parent, _V.kind, _V.method, _V.hparams, _V.seed, _V.requests, _V.figures, _V.covariances, _V.message,
        _V.fingerprint, _V.created,
    )  # fmt: skip
    with catalog.read() as session:
        return read_row(session, query, _V.id, id, _detail)


def evaluations_of(catalog: Catalog, revision: str) -> list[EvaluationView | Hurt]:
    """The evaluations of a revision, newest first, each with one of the parent's that it may be compared with."""
    sets: Any = FactSet
    wanted = select(_E.id, _F.name, func.json(_E.metrics), _E.created, func.json(_E.protocol))
    query = wanted.outerjoin(sets.__table__, _F.id == _E.fact_set_id)
    parent = select(_V.parent).where(_V.id == revision).scalar_subquery()
    with catalog.read() as session:
        own = read_rows(session, query.where(_E.revision == revision), _E.id, _evaluation, 10)
        before = read_rows(session, query.where(_E.revision == parent), _E.id, _evaluation, 10)
    return [_beside(one, before) if isinstance(one, EvaluationView) else one for one in own]


def _beside(one: EvaluationView, before: list[EvaluationView | Hurt]) -> EvaluationView:
    known = [other for other in before if isinstance(other, EvaluationView)]
    differing = [jobs.differences(other.protocol, one.protocol) for other in known]
    for other, found in zip(known, differing, strict=True):
        if not found:
            return replace(one, parent=other)
    if not known:
        return one
    why = ", ".join(map(str, differing[0]))
    return replace(
        one, differs=f"the parent's evaluation {known[0].id} cannot be compared, it differs in {why}"
    )


def resolve(catalog: Catalog, target: str) -> tuple[str, str, int]:
    """MODEL or MODEL@REVISION as (model, id of the revision, how many layers the model has).

    Raises:
        store.errors.InputError: no such model or revision; the message names those there are.
        store.errors.CatalogError: a row that was needed is damaged.
    """
    name, revision = history.parse_target(target.strip())
    with readable(f"the history of {name}"), catalog.read() as session:
        model = history.find_model(session, name)
        return name, history.find_revision(session, model, revision).id, int(model.anatomy.get("layers", 0))


def why_not_revert(catalog: Catalog, model: str, revision: str) -> str | None:
    """Why this revision cannot be taken out of the head, or None if it can."""
    try:
        with readable(f"the history of {model}"), catalog.read() as session:
            found = history.find_model(session, model)
            way = history.path(session, found.head or "")
            history.check_revert(way, history.find_revision(session, found, revision))
    except (InputError, CatalogError) as error:
        return str(error)
    return None


# Ids are digests and clocks may step back; a parent is always saved before its children.
_SAVED: Any = literal_column("revision.rowid")


def _row(*values: Any) -> RevisionRow:
    id, parent, kind, reverts, method, layers, requests, message, created = values
    return RevisionRow(
        id, parent, kind, reverts, method, tuple(json.loads(layers or "[]")), requests, message, created
    )


def _with_standing(rows: list[RevisionRow | Hurt], head: str | None) -> list[RevisionRow | Hurt]:
    known = {row.id: row for row in rows if isinstance(row, RevisionRow)}
    way = _way(known, head)
    out = history.taken_out(
        [Revision(id=row.id, kind=row.kind, reverts=row.reverts, model_id=0, fingerprint="") for row in way]
    )
    on_way = {row.id for row in way}

    def standing(row: RevisionRow) -> str:
        if row.id in out:
            return "taken out"
        if row.id in on_way:
            return "live" if row.kind == "edit" else row.kind
        return "rolled back" if head in {one.id for one in _way(known, row.id)} else "other branch"

    return [replace(row, standing=standing(row)) if isinstance(row, RevisionRow) else row for row in rows]


def _way(known: dict[str, RevisionRow], to: str | None) -> list[RevisionRow]:
    """From the base (or the oldest that is known) to a revision."""
    way: list[RevisionRow] = []
    seen: set[str] = set()
    while to is not None and to in known and to not in seen:
        seen.add(to)
        way.append(known[to])
        to = known[to].parent
    return way[::-1]


def _detail(*values: Any) -> RevisionDetail:
    return RevisionDetail(*values)


def _evaluation(id: int, facts: str | None, metrics: str, created: datetime, protocol: str) -> EvaluationView:
    scores = {
        name: (float(one["value"]), float(one["low"]), float(one["high"]), int(one["count"]))
        for name, one in json.loads(metrics).items()
    }
    told: dict[str, Any] = json.loads(protocol)
    return EvaluationView(id, facts or told.get("facts", "its own requests"), scores, created, told)
