"""Export a model's history and import it into another catalog: the same revisions and results."""

import json
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import SQLModel, select

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Fact,
    FactSet,
    HeadMove,
    Revision,
    Sweep,
    SweepTrial,
    Trace,
    TraceResult,
)
from retcon.store.errors import ArtifactCorrupt, CatalogError, InputError, NotFound
from retcon.store.exchange import bundle as bundles
from retcon.store.exchange import bundle_rows
from retcon.store.history import history
from retcon.store.maintenance import verify
from retcon.tests.helpers.bundle_catalog import BASE, EDITS, REVERT, delta, fill, with_model

HISTORY = (
    Revision,
    Covariance,
    Trace,
    TraceResult,
    AverageEffect,
    Sweep,
    SweepTrial,
    Evaluation,
    FactSet,
    Fact,
)
# The former names of the fields of a passage's facts.
PASSAGE = {"train_paraphrases": "wordings", "eval_paraphrases": "held_out"}
# Row numbers, and the ids of bases and covariances, differ between catalogs.
OWN = {"id", "model_id", "trace_id", "sweep_id", "fact_set_id", "covariances", "parent", "origin"}


@pytest.fixture
def catalogs(tmp_path: Path) -> Iterator[Callable[..., Catalog]]:
    opened: list[Catalog] = []

    def make(home: str, **how: Any) -> Catalog:
        opened.append(with_model(tmp_path / home, **how))
        return opened[-1]

    yield make
    for catalog in opened:
        catalog.close()


@pytest.fixture
def source(catalogs: Callable[..., Catalog]) -> Catalog:
    catalog = catalogs("source")
    fill(catalog)
    return catalog


@pytest.fixture
def bundle(source: Catalog, tmp_path: Path) -> Path:
    path = tmp_path / "tiny.bundle"
    bundles.export_history(source, "tiny", path)
    return path


def all_of(catalog: Catalog, table: type[SQLModel]) -> list[Any]:
    with catalog.read() as session:
        return list(session.exec(select(table)).all())


def content(catalog: Catalog, table: type[SQLModel]) -> list[str]:
    """The rows without the columns that each catalog sets. All revisions except the base keep their ids."""
    records = [row.model_dump(exclude=OWN) for row in all_of(catalog, table)]
    if table is Revision:
        edits = [row for row in all_of(catalog, table) if row.kind != "base"]
        records = [row.model_dump(exclude=OWN - {"id"}) for row in edits]
    return sorted(json.dumps(record, sort_keys=True, default=str) for record in records)


def counts(catalog: Catalog) -> dict[str, int]:
    return {table.__name__: len(all_of(catalog, table)) for table in (*HISTORY, HeadMove)}


def test_import_into_another_catalog(source: Catalog, bundle: Path, catalogs: Callable[..., Catalog]) -> None:
    target = catalogs("target", minutes=77)
    with target.write() as session:  # so that row numbers differ
        session.add(FactSet(name="other", source="", format="plain"))
    result = bundles.import_history(target, bundle)
    assert (result.model, result.source_head, result.head_moved) == ("tiny", REVERT, True)
    assert result.added == {
        "revision": 4, "covariance": 2, "trace": 1, "sweep": 1, "evaluation": 1, "passage": 1, "fact_set": 1,
    }  # fmt: skip
    for table in HISTORY:
        if table is FactSet:
            continue
        assert content(target, table) == content(source, table), table
    with target.read() as session:
        model = history.find_model(session, "tiny")
        assert model.head == REVERT and history.list_head_moves(session, model)[-1].reason == "import"
        path_to_revert = history.load_path(session, REVERT)
        assert [one.id for one in path_to_revert[1:]] == [EDITS[0], EDITS[1], REVERT]
        assert path_to_revert[0].id == history.find_revision(session, model, "base").id
        assert [one.id for one in history.live_edits(path_to_revert)] == [EDITS[1]]
        fingerprints = {one.id: one.fingerprint for one in history.list_revisions(session, model)}
    assert fingerprints[path_to_revert[0].id] == BASE
    assert {id: fingerprints[id] for id in (*EDITS, REVERT)} == {
        row.id: row.fingerprint for row in all_of(source, Revision) if row.kind != "base"
    }
    first, second = all_of(target, Covariance)
    assert second.origin == {"extends": first.id}
    (trace,), (sweep,), (evaluation,) = (all_of(target, one) for one in (Trace, Sweep, Evaluation))
    facts = next(one for one in all_of(target, FactSet) if one.name == "known")
    assert trace.fact_set_id == evaluation.fact_set_id == facts.id == 2
    assert (sweep.trace_id, sweep.covariances) == (trace.id, [first.id])
    assert next(row for row in all_of(target, Revision) if row.id == EDITS[0]).covariances == [second.id]
    checked = verify.check(target)
    assert checked.is_sound and checked.damages == [] and checked.artifacts == 5


def exported_records(catalog: Catalog) -> dict[str, Any]:
    """The rows of the model `tiny` as in the file of a bundle."""
    with catalog.read() as session:
        rows = bundle_rows.export_rows(session, history.find_model(session, "tiny"), covariances=True)
    records: dict[str, Any] = json.loads(json.dumps(rows, default=datetime.isoformat))
    return records


def test_bundle_without_trace_columns_still_loads(source: Catalog) -> None:
    """Bundles written before `replace` and `swap` were columns hold the corruption as a sentence."""
    records = exported_records(source)
    (record,) = records["trace"]
    del record["replace"], record["swap"]
    record["protocol"] = {"corruption": "noise 3s in place of the embeddings of the subject's tokens"}
    (trace,) = bundle_rows.parse_rows(records, layers=2)[Trace]
    assert trace.replace and trace.swap is None


def test_bundle_with_former_names_still_loads(source: Catalog) -> None:
    """Columns and fields were renamed before 0.1.0."""
    former = {
        "fact": {"train_paraphrases": "wordings", "eval_paraphrases": "paraphrases"},
        "revision": {"statistics": "figures"},
        "trace_result": {"token_ids": "ids", "is_complete": "finished", "skip_reason": "skipped"},
        "sweep": {"trial_count": "planned"},
        "sweep_trial": {"error": "refused"},
    }
    records, expected = exported_records(source), exported_records(source)
    for table, names in former.items():
        records[table] = [
            {names.get(name, name): value for name, value in row.items()} for row in records[table]
        ]
    for row in records["passage"]:
        row["facts"] = [
            {PASSAGE.get(name, name): value for name, value in fact.items()} for fact in row["facts"]
        ]
    records["revision"][1]["requests"][0] |= {"wordings": ["{} lies in"], "paraphrases": ["Where is it?"]}
    expected["revision"][1]["requests"][0] |= {
        "train_paraphrases": ["{} lies in"], "eval_paraphrases": ["Where is it?"],
    }  # fmt: skip
    assert bundle_rows.parse_rows(records, layers=2) == bundle_rows.parse_rows(expected, layers=2)


def test_second_import_adds_nothing(bundle: Path, catalogs: Callable[..., Catalog]) -> None:
    target = catalogs("target")
    first = bundles.import_history(target, bundle)
    before = counts(target)
    again = bundles.import_history(target, bundle)
    assert counts(target) == before
    assert (set(again.added.values()), again.existing, again.head_moved) == ({0}, first.added, False)


def test_import_into_source_adds_nothing(source: Catalog, bundle: Path) -> None:
    before = counts(source)
    assert set(bundles.import_history(source, bundle).added.values()) == {0}
    assert counts(source) == before


def test_round_trip_with_new_revision(
    source: Catalog, bundle: Path, catalogs: Callable[..., Catalog], tmp_path: Path
) -> None:
    target = catalogs("target", name="mine")
    bundles.import_history(target, bundle)
    with target.write() as session:
        model = history.find_model(session, "mine")
        digest = delta(target, 9)
        session.merge(target.artifacts.put_bytes(target.artifacts.read_bytes(digest)))
        new = Revision(
            id="ccccccccc5", model_id=1, parent=REVERT, kind="edit", delta=digest, fingerprint="5" * 64
        )
        history.commit_revision(session, model, new, "edit")
    bundles.export_history(target, "mine", tmp_path / "back")
    result = bundles.import_history(source, tmp_path / "back")
    assert result.model == "tiny" and {name: n for name, n in result.added.items() if n} == {"revision": 1}
    # The target has edits, so the import does not move its head.
    assert (result.head_moved, result.source_head, result.head) == (False, "ccccccccc5", REVERT)
    with source.read() as session:
        assert history.find_model(session, "tiny").head == REVERT
        assert [one.id for one in history.load_path(session, "ccccccccc5")][1:] == [
            EDITS[0], EDITS[1], REVERT, "ccccccccc5",
        ]  # fmt: skip


def test_existing_set_with_other_facts_stays(bundle: Path, catalogs: Callable[..., Catalog]) -> None:
    target = catalogs("target")
    with target.write() as session:
        session.add(FactSet(name="known", source="mine", format="plain"))
    bundles.import_history(target, bundle)
    assert [one.name for one in all_of(target, FactSet)] == ["known", "known-2"]
    assert all_of(target, Trace)[0].fact_set_id == 2
    assert bundles.import_history(target, bundle).existing["fact_set"] == 1


def test_export_without_covariances(
    source: Catalog, catalogs: Callable[..., Catalog], tmp_path: Path
) -> None:
    result = bundles.export_history(source, "tiny", tmp_path / "small", covariances=False)
    assert result.artifacts == 3
    target = catalogs("target")
    bundles.import_history(target, tmp_path / "small")
    assert all_of(target, Covariance) == []
    assert all(row.covariances == [] for row in all_of(target, Revision))


def test_target_model_of_import(bundle: Path, catalogs: Callable[..., Catalog]) -> None:
    with pytest.raises(NotFound, match=r"retcon model add org/tiny --revision c0ffee"):
        bundles.import_history(catalogs("other", fingerprint="0" * 64), bundle)
    with pytest.raises(InputError, match="fingerprint ba5e"):
        bundles.import_history(catalogs("other again", name="x", fingerprint="0" * 64), bundle, "x")
    with pytest.raises(NotFound, match="no model 'y'"):
        bundles.import_history(catalogs("third"), bundle, "y")
    assert bundles.import_history(catalogs("renamed", name="mine"), bundle).model == "mine"


def test_ambiguous_model_is_rejected(bundle: Path, catalogs: Callable[..., Catalog]) -> None:
    target = catalogs("target", name="one")
    from retcon.tests.helpers.bundle_catalog import model

    with target.write() as session:
        history.add_base(session, model("two", BASE, 5))
    with pytest.raises(InputError, match="one, two with --into"):
        bundles.import_history(target, bundle)
    assert bundles.import_history(target, bundle, "two").model == "two"
    # The other model has these ids now.
    with pytest.raises(InputError, match="already in this catalog"):
        bundles.import_history(target, bundle, "one")


def test_conflicting_revision_id_is_rejected(bundle: Path, catalogs: Callable[..., Catalog]) -> None:
    target = catalogs("target")
    with target.write() as session:
        found = history.find_model(session, "tiny")
        mine = Revision(id=EDITS[1], model_id=1, parent=found.head, kind="edit", fingerprint="f" * 64)
        history.commit_revision(session, found, mine, "edit")
    before = counts(target)
    with pytest.raises(InputError, match=f"Revision {EDITS[1]} is already in this catalog"):
        bundles.import_history(target, bundle)
    assert counts(target) == before


def test_invalid_exports_are_rejected(source: Catalog, bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        bundles.export_history(source, "tiny", bundle)
    with pytest.raises(InputError, match="there is no folder"):
        bundles.export_history(source, "tiny", tmp_path / "nowhere" / "x")
    with pytest.raises(NotFound):
        bundles.export_history(source, "other", tmp_path / "x")
    digest = all_of(source, Revision)[1].delta
    source.artifacts.locate(digest).write_bytes(b"changed")
    with pytest.raises(ArtifactCorrupt):
        bundles.export_history(source, "tiny", tmp_path / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["source", "tiny.bundle"]


def test_equal_histories_give_equal_bundles(source: Catalog, bundle: Path, tmp_path: Path) -> None:
    bundles.export_history(source, "tiny", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == bundle.read_bytes()


def test_full_disk_is_reported(
    bundle: Path, catalogs: Callable[..., Catalog], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    from retcon.store.exchange import bundle_archive

    target = catalogs("target")
    before = counts(target)

    def full(_source: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(bundle_archive, "copy", full)
    with pytest.raises(CatalogError, match="is full"):
        bundles.import_history(target, bundle)
    assert counts(target) == before and target.artifacts.partial_files() == []
