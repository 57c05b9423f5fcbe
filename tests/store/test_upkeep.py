"""Check, backup, collection of what nothing needs."""

import os
from pathlib import Path

import pytest
from retcon.store import history, jobs, upkeep
from retcon.store.catalog import Catalog
from retcon.store.connection import connect
from retcon.store.errors import InputError
from retcon.store.tables import Artifact, Model, Revision
from sqlmodel import select


@pytest.fixture
def deltas(catalog: Catalog, model: Model) -> dict[str, str]:
    """Artifacts by what names them; all old."""
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        digests = {}
        for use in ("revision", "job", "nothing"):
            row = session.merge(catalog.artifacts.put_bytes(use.encode()))
            digests[use] = row.sha256
        digests["no row"] = catalog.artifacts.put_bytes(b"no row").sha256
        edit = Revision(
            model_id=model.id, parent=base.id, kind="edit", fingerprint="f", delta=digests["revision"]
        )
        history.commit_revision(session, model, edit, "edit")
        job = jobs.create(session, "covariance", {}, "cpu")
        job.checkpoint = {"sums": [{"sha": digests["job"]}]}
    for digest in digests.values():
        os.utime(catalog.artifacts.path(digest), (1, 1))
    return digests


def test_a_sound_catalog(catalog: Catalog, deltas: dict[str, str]) -> None:
    assert upkeep.check(catalog) == []


def test_a_removed_checkpoint_is_no_damage_and_its_row_goes(catalog: Catalog, deltas: dict[str, str]) -> None:
    catalog.artifacts.remove(deltas["nothing"])
    assert upkeep.check(catalog) == []
    upkeep.collect(catalog)
    with catalog.read() as session:
        assert session.get(Artifact, deltas["nothing"]) is None


def test_damage_is_found_with_what_needs_it(catalog: Catalog, deltas: dict[str, str]) -> None:
    catalog.artifacts.path(deltas["revision"]).write_bytes(b"rEvision")
    connection = connect(catalog.home.catalog)
    connection.execute("DELETE FROM fact_set")
    connection.execute(
        "INSERT INTO fact (fact_set_id, position, subject, prompt, paraphrases, neighbours, negations, portability,"
        ' generation_prompts, "references", origin)'
        " VALUES (7, 0, '', '', '[]', '[]', '[]', '[]', '[]', '[]', '{}')"
    )
    connection.close()
    orphan, damaged = upkeep.check(catalog)
    assert "of fact points at a row of fact_set" in orphan
    assert deltas["revision"] in damaged and "needed by revision" in damaged


def test_only_what_nothing_names_goes(catalog: Catalog, deltas: dict[str, str]) -> None:
    young = catalog.artifacts.put_bytes(b"its row comes soon").sha256
    freed = upkeep.collect(catalog)
    assert (freed.artifacts, freed.partial_files, freed.bytes) == (2, 0, len("nothing") + len("no row"))
    assert set(catalog.artifacts.digests()) == {deltas["revision"], deltas["job"], young}
    with catalog.read() as session:
        assert {row.sha256 for row in session.exec(select(Artifact))} == {deltas["revision"], deltas["job"]}
    assert upkeep.collect(catalog).artifacts == 0
    assert upkeep.check(catalog) == []


def test_a_done_job_needs_its_checkpoint_no_more(catalog: Catalog, deltas: dict[str, str]) -> None:
    with catalog.write() as session:
        jobs.claim(session, 1, "me", 1)
        jobs.finish(session, 1, "me", {})
    assert upkeep.collect(catalog).artifacts == 3
    assert upkeep.check(catalog) == []


def test_what_was_stored_again_is_young(catalog: Catalog, deltas: dict[str, str]) -> None:
    catalog.artifacts.put_bytes(b"nothing")
    assert upkeep.collect(catalog).artifacts == 1
    assert deltas["nothing"] in set(catalog.artifacts.digests())


def test_what_is_stored_again_while_it_is_removed_stays(
    catalog: Catalog, deltas: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.rename

    def rename(path: Path, target: Path) -> Path:
        if path.name == deltas["nothing"]:
            catalog.artifacts.put_bytes(b"nothing")
        return real(path, target)

    monkeypatch.setattr(Path, "rename", rename)
    upkeep.collect(catalog)
    assert catalog.artifacts.read_bytes(deltas["nothing"]) == b"nothing"


def test_backup(catalog: Catalog, deltas: dict[str, str], tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    upkeep.backup(catalog, target)
    connection = connect(target)
    assert connection.execute("SELECT count(*) FROM revision").fetchone() == (2,)
    connection.close()
    with pytest.raises(InputError, match="exists already"):
        upkeep.backup(catalog, target)
    with pytest.raises(InputError, match="cannot be written"):
        upkeep.backup(catalog, tmp_path / "nowhere" / "copy.db")
