"""Export a model's history to a file, and import it into another catalog with the same base.

The bundle has the source and the fingerprint of the base, but not its weights: add the model before the import.
Revisions keep their ids. The base of the bundle becomes the existing base.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy.exc import IntegrityError
from sqlmodel import Session, SQLModel, col, select

from ..atomic_files import check_new_file, write_atomically
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
from . import bundle_archive as archive
from .bundle_rows import (
    Rows,
    check_bundle,
    export_rows,
    parse_rows,
    store_artifacts,
    table_name,
)

# The columns of the model that identify its weights.
_ABOUT = ("name", "source_kind", "commit", "architecture", "dtype", "parameters", "fingerprint")
_COUNTED = (Revision, Covariance, Trace, Sweep, Evaluation, Passage, FactSet)


@dataclass(frozen=True)
class ExportResult:
    """The content of a bundle."""

    artifacts: int
    bytes: int
    rows: dict[str, int]


@dataclass(frozen=True)
class ImportResult:
    """The rows that an import added to `model`, and the rows that existed.

    `source_head` is the head in the exporting catalog, `head` is the head after the import.
    """

    model: str
    source_head: str
    head: str
    head_moved: bool
    added: dict[str, int] = field(default_factory=dict)
    existing: dict[str, int] = field(default_factory=dict)


def export_history(
    catalog: Catalog, name: str, path: Path, report: archive.Report = lambda _done, _total: None, *,
    covariances: bool = True,
) -> ExportResult:  # fmt: skip
    """Write the history of a model to a new file: revisions with deltas, covariances, traces and scores.

    Raises InputError if the file exists or the model does not, ArtifactCorrupt for a corrupt artifact. No file remains
    then.
    """
    check_new_file(path)
    # The lock keeps all artifacts until they are copied.
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
    return ExportResult(
        len(files), path.stat().st_size, {table_name(t): len(rows[table_name(t)]) for t in _COUNTED}
    )


def import_history(
    catalog: Catalog, path: Path, into: str | None = None, report: archive.Report = lambda _done, _total: None
) -> ImportResult:
    """Add the history in a bundle to a model with the same base. Existing rows stay.

    `into` names the model; the default is the one with the bundle's name, or the only one with that base. If the model
    has no edits, the head moves to that of the bundle. Verifies every byte and every row first, then writes all rows in
    one transaction. Raises InputError for an invalid bundle or another base.
    """
    with archive.read(path, report) as bundle:
        with catalog.read() as session:
            model = _model(session, bundle, into)
        try:
            rows = parse_rows(bundle.rows, int(model.anatomy["layers"]))
            source_head = check_bundle(bundle, rows, model)
        except InputError as error:
            raise InputError(f"{path} cannot be imported: {error}.") from error
        artifacts = store_artifacts(catalog, bundle, rows, model)
        try:
            with catalog.write(durable=True) as session:
                for artifact in artifacts:
                    session.merge(artifact)
                session.flush()
                return _Importer(session, history.find_model(session, model.name), rows, source_head).run()
        except IntegrityError as error:
            raise InputError(
                f"{path} cannot be imported: its rows break a rule of the catalog ({error.orig})."
            ) from error


def _model(session: Session, bundle: archive.Bundle, into: str | None) -> Model:
    """The model that the bundle belongs to."""
    about = bundle.about.get("model")
    if not isinstance(about, dict) or not all(
        isinstance(about.get(key), str) for key in ("name", "source", "fingerprint")
    ):
        raise InputError(f"{bundle.path} does not name its model.")
    models = session.exec(select(Model).order_by(col(Model.name))).all()
    same = [model for model in models if model.fingerprint == about["fingerprint"]]
    if into is not None:
        model = history.find_model(session, into)
        if model not in same:
            raise InputError(
                f"{bundle.path} has a base with fingerprint {about['fingerprint'][:12]}; {into} has "
                f"{model.fingerprint[:12]}: add the right model first, {_how_to_add(about)}."
            )
        return model
    named = [model for model in same if model.name == about["name"]] or same
    if not named:
        raise NotFound(
            f"No model has the base of {bundle.path} (fingerprint {about['fingerprint'][:12]}): add it first, "
            f"{_how_to_add(about)}."
        )
    if len(named) > 1:
        names = ", ".join(model.name for model in named)
        raise InputError(f"Several models have the base of {bundle.path}: name one of {names} with --into.")
    return named[0]


def _how_to_add(about: Mapping[str, Any]) -> str:
    commit = f" --revision {about['commit']}" if isinstance(about.get("commit"), str) else ""
    where = (
        ""
        if about.get("source_kind") in ("hub", "starter")
        else f" (in that catalog a {about.get('source_kind')})"
    )
    return f"`retcon model add {about['source']}{commit}`{where}"


class _Importer:
    """Adds rows in one transaction, with new ids of this catalog."""

    def __init__(self, session: Session, model: Model, rows: Rows, source_head: str) -> None:
        self.session, self.model, self.rows = session, model, rows
        revisions = history.list_revisions(session, model)
        self.has_no_edits = len(revisions) == 1
        (self.base,) = [row for row in revisions if row.kind == "base"]
        (source_base,) = [row for row in rows[Revision] if row.kind == "base"]
        # By table: the new id of each id of the bundle.
        self.ids: dict[type[SQLModel], dict[Any, Any]] = {table: {} for table in rows}
        self.ids[Revision] = {row.id: row.id for row in rows[Revision]} | {source_base.id: self.base.id}
        self.source_head = self.ids[Revision][source_head]
        self.added = {table_name(table): 0 for table in _COUNTED}
        self.existing = dict(self.added)

    def run(self) -> ImportResult:
        for fact_set in self.rows[FactSet]:
            self._fact_set(fact_set)
        for row in self.rows[Covariance]:
            row.model_id = self.model.id
            self._add_if_new(row, ("layer", "artifact"))
        for row in history.parents_first(self.rows[Revision]):
            if row.kind != "base":
                self._revision(row)
        for row in self.rows[Covariance]:  # after all have new ids
            self._extends(row)
        for row in self.rows[Trace]:
            self._add_result(
                row, ("noise", "seed", "samples", "window", "tokens"), TraceResult, AverageEffect
            )
        for row in self.rows[Sweep]:
            row.covariances = self._covariances(row.covariances)
            row.trace_id = self.ids[Trace].get(row.trace_id)
            self._add_result(row, ("method", "seed", "trial_count"), SweepTrial)
        for row in self.rows[Evaluation]:
            self._add_result(row, ())
        for row in self.rows[Passage]:
            row.revisions = [self.ids[Revision][revision] for revision in row.revisions]
            self._add_result(row, ("title", "method"))
        is_moved = self.has_no_edits and self.source_head != self.model.head
        if is_moved:
            head = self.session.get_one(Revision, self.source_head)
            history.move_head(self.session, self.model, head, "import")
        return ImportResult(
            self.model.name,
            self.source_head,
            self.model.head or self.base.id,
            is_moved,
            self.added,
            self.existing,
        )

    def _count(self, row: SQLModel, *, new: bool) -> None:
        counts, name = (self.added if new else self.existing), table_name(type(row))
        if name in counts:
            counts[name] += 1

    def _add(self, row: Any) -> None:
        old, row.id = row.id, None
        self.session.add(row)
        self.session.flush()
        self.ids[type(row)][old] = row.id
        self._count(row, new=True)

    def _add_if_new(self, row: Any, same: tuple[str, ...]) -> bool:
        """Add a row, unless the model has one with the same creation time and the same columns `same`."""
        table = type(row)
        query = select(table).where(table.model_id == self.model.id, table.created == row.created)
        for found in self.session.exec(query).all():
            if all(getattr(found, name) == getattr(row, name) for name in same):
                self.ids[table][row.id] = found.id
                self._count(row, new=False)
                return False
        self._add(row)
        return True

    def _add_result(self, row: Any, same: tuple[str, ...], *children: type[SQLModel]) -> None:
        """Add a result of a revision with its child rows."""
        old = row.id
        row.model_id, row.revision = self.model.id, self.ids[Revision][row.revision]
        if not isinstance(row, Passage):  # which contains its facts
            row.fact_set_id = self.ids[FactSet].get(row.fact_set_id)
        if not self._add_if_new(row, ("revision", *same)):
            return
        key = f"{table_name(type(row))}_id"
        for child in children:
            for part in self.rows[child]:
                if getattr(part, key) == old:
                    setattr(part, key, row.id)
                    self._add(part)

    def _fact_set(self, row: FactSet) -> None:
        """Reuse a set of that name with the same facts. If its facts differ, add the set under a new name."""
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
                    f"Revision {row.id} is already in this catalog with other content (another model or "
                    "parent): nothing was imported."
                )
            self._count(row, new=False)
            return
        if row.reverts is not None:
            path = history.load_path(self.session, row.parent or "")
            history.check_revert(path, self.session.get_one(Revision, row.reverts))
        self.session.add(row)
        self.session.flush()
        self._count(row, new=True)

    def _covariances(self, ids: list[int]) -> list[int]:
        return [self.ids[Covariance][id] for id in ids if id in self.ids[Covariance]]

    def _extends(self, row: Covariance) -> None:
        """Update the id of the covariance that this one extends; it may be missing here."""
        if "extends" in row.origin and row in self.session:
            known = self.ids[Covariance].get(row.origin["extends"])
            row.origin = {"extends": known} if known else {"imported": "a bundle"}


def _plain(facts: Any) -> list[dict[str, Any]]:
    kept = [fact.model_dump(exclude={"id", "fact_set_id"}) for fact in facts]
    return sorted(kept, key=lambda fact: fact["position"])
