"""A model's history as one file: out of one catalog, and into another that has the same base.

The base's weights are not in it, only what they are: where they came from, and their fingerprint. Whoever imports it
has added the model before. Revisions keep their ids; the base of the bundle becomes the base that is there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, col, select

from ..atomic_files import write_atomically
from ..catalog.catalog import Catalog
from ..catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Fact,
    FactSet,
    Model,
    Passage,
    Revision,
    Sweep,
    SweepTrial,
    Trace,
    TraceResult,
)
from ..errors import InputError, NotFound
from ..history import history
from ..history.lineage import parents_first
from . import bundle_archive as archive
from .bundle_rows import (
    Rows,
    check_bundle,
    export_rows,
    parse_rows,
    store_artifacts,
    table_name,
)

# Of the model, what tells whoever imports the bundle which weights it is of.
_ABOUT = ("name", "source_kind", "commit", "architecture", "dtype", "parameters", "fingerprint")
_COUNTED = (Revision, Covariance, Trace, Sweep, Evaluation, Passage, FactSet)


@dataclass(frozen=True)
class Exported:
    """What a bundle holds."""

    artifacts: int
    bytes: int
    rows: dict[str, int]


@dataclass(frozen=True)
class Imported:
    """What an import added to `model`; `there` is what was there already.

    `tip` is the head where it came from, `head` the model's own now.
    """

    model: str
    tip: str
    head: str
    head_moved: bool
    added: dict[str, int] = field(default_factory=dict)
    there: dict[str, int] = field(default_factory=dict)


def export_history(
    catalog: Catalog, name: str, path: Path, report: archive.Report = lambda _done, _total: None, *,
    covariances: bool = True,
) -> Exported:  # fmt: skip
    """Write the history of a model to a new file: revisions with their deltas, covariances, traces, scores.

    Raises:
        InputError: there is such a file, or no such model.
        ArtifactCorrupt: an artifact is hurt; nothing was written.
    """
    if path.exists():
        raise InputError(f"{path} exists already: give a file that does not.")
    if not path.absolute().parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.absolute().parent}.")
    # Nothing is removed from the artifacts until they are all copied.
    with catalog.artifacts.leases.shared():
        with catalog.read() as session:
            model = history.find_model(session, name)
            rows = export_rows(session, model, covariances=covariances)
        digests = {row["delta"] for row in rows["revision"]} | {row["artifact"] for row in rows["covariance"]}
        files = {digest: catalog.artifacts.path(digest) for digest in sorted(digests - {None})}
        about: dict[str, Any] = {
            "model": {name: getattr(model, name) for name in _ABOUT}
            | {"source": history.public_source(model)}
        }
        about |= {"head": model.head}
        write_atomically(path, lambda partial: archive.write(partial, about, rows, files, report))
    return Exported(
        len(files), path.stat().st_size, {table_name(t): len(rows[table_name(t)]) for t in _COUNTED}
    )


def import_history(
    catalog: Catalog, path: Path, into: str | None = None, report: archive.Report = lambda _done, _total: None
) -> Imported:
    """Add the history in a bundle to a model of the catalog that has the same base; what is there already stays.

    `into` names the model; by default the one of the bundle's name, or the only one with that base. The head moves to
    the bundle's where the model had no edits. Every byte is verified, and every row held to the catalog's rules, before
    the first row is written; all rows are written in one transaction.

    Raises:
        InputError: it is no bundle, damaged, of another base, or holds what a catalog would not.
    """
    with archive.read(path, report) as bundle:
        with catalog.read() as session:
            model = _model(session, bundle, into)
        try:
            rows = parse_rows(bundle.rows, int(model.anatomy["layers"]))
            tip = check_bundle(bundle, rows, model)
        except InputError as error:
            raise InputError(f"{path} cannot be imported: {error}.") from error
        artifacts = store_artifacts(catalog, bundle, rows, model)
        try:
            with catalog.write(durable=True) as session:
                for artifact in artifacts:
                    session.merge(artifact)
                session.flush()
                return _Import(session, history.find_model(session, model.name), rows, tip).run()
        except IntegrityError as error:
            raise InputError(
                f"{path} cannot be imported: its rows break a rule of the catalog ({error.orig})."
            ) from error


def _model(session: Session, bundle: archive.Bundle, into: str | None) -> Model:
    """The model of this catalog that the bundle is of."""
    about = bundle.about.get("model")
    if not isinstance(about, dict) or not all(
        isinstance(about.get(key), str) for key in ("name", "source", "fingerprint")
    ):
        raise InputError(f"{bundle.path} does not tell which model it is of.")
    every = session.exec(select(Model).order_by(col(Model.name))).all()
    same = [model for model in every if model.fingerprint == about["fingerprint"]]
    if into is not None:
        model = history.find_model(session, into)
        if model not in same:
            raise InputError(
                f"{bundle.path} is of a base with fingerprint {about['fingerprint'][:12]}; {into} has "
                f"{model.fingerprint[:12]}: add the right model first, {_how_to_add(about)}."
            )
        return model
    named = [model for model in same if model.name == about["name"]] or same
    if not named:
        raise NotFound(
            f"No model here has the base of {bundle.path} (fingerprint {about['fingerprint'][:12]}): add it first, "
            f"{_how_to_add(about)}."
        )
    if len(named) > 1:
        names = ", ".join(model.name for model in named)
        raise InputError(f"Several models have the base of {bundle.path}: name one of {names} with --into.")
    return named[0]


def _how_to_add(about: Mapping[str, Any]) -> str:
    commit = f" --revision {about['commit']}" if isinstance(about.get("commit"), str) else ""
    where = "" if about.get("source_kind") in ("hub", "starter") else f" (there a {about.get('source_kind')})"
    return f"`retcon model add {about['source']}{commit}`{where}"


class _Import:
    """Adds rows in one transaction, giving them ids of this catalog."""

    def __init__(self, session: Session, model: Model, rows: Rows, tip: str) -> None:
        self.session, self.model, self.rows = session, model, rows
        every = history.list_revisions(session, model)
        self.untouched = len(every) == 1
        (self.base,) = [row for row in every if row.kind == "base"]
        (theirs,) = [row for row in rows[Revision] if row.kind == "base"]
        # By table, what an id of the bundle is here.
        self.ids: dict[type[SQLModel], dict[Any, Any]] = {table: {} for table in rows}
        self.ids[Revision] = {row.id: row.id for row in rows[Revision]} | {theirs.id: self.base.id}
        self.tip = self.ids[Revision][tip]
        self.added = {table_name(table): 0 for table in _COUNTED}
        self.there = dict(self.added)

    def run(self) -> Imported:
        for fact_set in self.rows[FactSet]:
            self._fact_set(fact_set)
        for row in self.rows[Covariance]:
            row.model_id = self.model.id
            self._unless_there(row, ("layer", "artifact"))
        for row in parents_first(self.rows[Revision]):
            if row.kind != "base":
                self._revision(row)
        for row in self.rows[Covariance]:  # after all have their ids
            self._extends(row)
        for row in self.rows[Trace]:
            self._measured(row, ("noise", "seed", "samples", "window", "tokens"), TraceResult, AverageEffect)
        for row in self.rows[Sweep]:
            row.covariances = self._covariances(row.covariances)
            row.trace_id = self.ids[Trace].get(row.trace_id)
            self._measured(row, ("method", "seed", "trial_count"), SweepTrial)
        for row in self.rows[Evaluation]:
            self._measured(row, ())
        for row in self.rows[Passage]:
            row.revisions = [self.ids[Revision][revision] for revision in row.revisions]
            self._measured(row, ("title", "method"))
        moved = self.untouched and self.tip != self.model.head
        if moved:
            tip = self.session.get_one(Revision, self.tip)
            history.move_head(self.session, self.model, tip, "import")
        return Imported(
            self.model.name, self.tip, self.model.head or self.base.id, moved, self.added, self.there
        )

    def _count(self, row: SQLModel, *, new: bool) -> None:
        counts, name = (self.added if new else self.there), table_name(type(row))
        if name in counts:
            counts[name] += 1

    def _add(self, row: Any) -> None:
        old, row.id = row.id, None
        self.session.add(row)
        self.session.flush()
        self.ids[type(row)][old] = row.id
        self._count(row, new=True)

    def _unless_there(self, row: Any, same: tuple[str, ...]) -> bool:
        """Add a row, unless one of this model that was made at the same moment has the same columns `same`."""
        table = type(row)
        query = select(table).where(table.model_id == self.model.id, table.created == row.created)
        for found in self.session.exec(query).all():
            if all(getattr(found, name) == getattr(row, name) for name in same):
                self.ids[table][row.id] = found.id
                self._count(row, new=False)
                return False
        self._add(row)
        return True

    def _measured(self, row: Any, same: tuple[str, ...], *children: type[SQLModel]) -> None:
        """Add what was measured on a revision, with its parts."""
        old = row.id
        row.model_id, row.revision = self.model.id, self.ids[Revision][row.revision]
        if not isinstance(row, Passage):  # which carries its facts itself
            row.fact_set_id = self.ids[FactSet].get(row.fact_set_id)
        if not self._unless_there(row, ("revision", *same)):
            return
        key = f"{table_name(type(row))}_id"
        for child in children:
            for part in self.rows[child]:
                if getattr(part, key) == old:
                    setattr(part, key, row.id)
                    self._add(part)

    def _fact_set(self, row: FactSet) -> None:
        """A set of that name with the same facts is taken for it; one with others lets it have another name."""
        facts = [fact for fact in self.rows[Fact] if fact.fact_set_id == row.id]
        name, number = row.name, 1
        while found := self.session.exec(select(FactSet).where(FactSet.name == row.name)).one_or_none():
            query = select(Fact).where(Fact.fact_set_id == found.id)
            if _plain(self.session.exec(query).all()) == _plain(facts):
                self.ids[FactSet][row.id] = found.id
                self._count(row, new=False)
                return
            number += 1
            row.name = f"{name}-{number}"
        self._add(row)
        for fact in facts:
            fact.fact_set_id = row.id
            self._add(fact)

    def _revision(self, row: Revision) -> None:
        row.model_id = self.model.id or 0
        row.parent = self.ids[Revision][row.parent]
        row.reverts = self.ids[Revision][row.reverts] if row.reverts else None
        row.covariances = self._covariances(row.covariances)
        found = self.session.get(Revision, row.id)
        if found is not None:
            same = ("model_id", "parent", "kind", "reverts", "delta", "fingerprint", "requests", "method")
            if any(getattr(found, name) != getattr(row, name) for name in same):
                raise InputError(
                    f"Revision {row.id} is in this catalog already, as another one (of another model, or on another "
                    "parent): nothing was imported."
                )
            self._count(row, new=False)
            return
        if row.reverts is not None:
            way = history.load_path(self.session, row.parent or "")
            history.check_revert(way, self.session.get_one(Revision, row.reverts))
        self.session.add(row)
        self.session.flush()
        self._count(row, new=True)

    def _covariances(self, ids: list[int]) -> list[int]:
        return [self.ids[Covariance][id] for id in ids if id in self.ids[Covariance]]

    def _extends(self, row: Covariance) -> None:
        """What a covariance was topped up from has another number here, or is not here."""
        if "extends" in row.origin and row in self.session:
            known = self.ids[Covariance].get(row.origin["extends"])
            row.origin = {"extends": known} if known else {"imported": "a bundle"}


def _plain(facts: Any) -> list[dict[str, Any]]:
    kept = [fact.model_dump(exclude={"id", "fact_set_id"}) for fact in facts]
    return sorted(kept, key=lambda fact: fact["position"])
