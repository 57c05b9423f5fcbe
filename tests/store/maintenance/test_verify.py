"""A check of the catalog names corrupt artifacts with their dependents, moves them away, and repairs them."""

from pathlib import Path

import pytest

from retcon.store import jobs
from retcon.store.catalog.artifacts import ArtifactStore
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.connection import connect
from retcon.store.catalog.tables import Covariance, Evaluation, Model, Revision, Trace
from retcon.store.history import history
from retcon.store.maintenance import verify


@pytest.fixture
def digests(catalog: Catalog, model: Model) -> dict[str, str]:
    """Artifacts by the row that references them: two evaluated edits, a covariance, and a stopped job."""
    with catalog.write() as session:
        base = history.add_base(session, model)
        assert model.id is not None
        found = {}
        for use in ("first", "second", "covariance", "job"):
            found[use] = session.merge(catalog.artifacts.put_bytes(use.encode())).sha256
        covariance = Covariance(
            model_id=model.id, layer=0, module="m", width=1, fingerprint="f0", texts="t", texts_revision="r",
            tokens=1, dtype="float32", artifact=found["covariance"],
        )  # fmt: skip
        session.add(covariance)
        session.flush()
        first = Revision(
            id="aaaa", model_id=model.id, parent=base.id, kind="edit", fingerprint="f1", delta=found["first"],
            covariances=[covariance.id],
        )  # fmt: skip
        history.commit_revision(session, model, first, "edit")
        second = Revision(
            id="bbbb", model_id=model.id, parent="aaaa", kind="edit", fingerprint="f2", delta=found["second"]
        )
        history.commit_revision(session, model, second, "edit")
        without = Revision(
            id="cccc", model_id=model.id, parent="bbbb", kind="revert", reverts="aaaa", fingerprint="f3"
        )
        history.commit_revision(session, model, without, "revert")
        session.add(Evaluation(model_id=model.id, revision="bbbb"))
        session.add(Trace(model_id=model.id, revision="aaaa", noise="3s", samples=1, window=1, seed=1))
        jobs.create(session, "covariance", {}, "cpu").checkpoint = {"sums": [{"sha": found["job"]}]}
    return found


def flip_bit(catalog: Catalog, digest: str) -> Path:
    """Flip a bit of an artifact. Size, time and mode do not change, as with a failing disk."""
    path = catalog.artifacts.path(digest)
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.write_bytes(data)
    return path


def test_intact_catalog_passes_the_check(catalog: Catalog, digests: dict[str, str]) -> None:
    reports: list[tuple[int, int]] = []
    checked = verify.check(catalog, lambda done, total: reports.append((done, total)))
    size = sum(len(use) for use in digests)
    assert checked == verify.CheckResult(artifacts=4, bytes=size) and checked.is_sound
    assert reports[0] == (0, size) and reports[-1] == (size, size) and reports == sorted(reports)


def test_corrupt_delta_names_its_dependents(catalog: Catalog, digests: dict[str, str]) -> None:
    path = flip_bit(catalog, digests["first"])
    checked = verify.check(catalog)
    (damage,) = checked.damages
    assert not checked.is_sound
    assert damage.referenced_by == ["revision aaaa of tiny"]
    # The revert does not need the corrupt delta, so it still succeeds.
    assert damage.affects == [
        "trace 1 on revision aaaa",
        "revision bbbb of tiny, which builds on aaaa",
        "evaluation 1 on revision bbbb",
    ]
    assert digests["first"] in damage.sentence and "has changed" in damage.sentence
    assert not path.exists() and damage.quarantined is not None
    assert damage.quarantined.parent == catalog.home.quarantine
    assert damage.quarantined.read_bytes() == b"girst"
    # The next checks report it as missing until it is restored.
    (again,) = verify.check(catalog).damages
    assert again.artifact.problem == "is missing" and again.quarantined is None
    catalog.artifacts.put_bytes(b"first")
    assert verify.check(catalog).is_sound


def test_corrupt_covariance_names_its_edits(catalog: Catalog, digests: dict[str, str]) -> None:
    flip_bit(catalog, digests["covariance"])
    (damage,) = verify.check(catalog).damages
    assert damage.referenced_by == ["covariance 1 of tiny"]
    assert damage.affects == ["revision aaaa, which was computed with it and has its own delta"]


def test_corrupt_checkpoint_names_its_job(catalog: Catalog, digests: dict[str, str]) -> None:
    catalog.artifacts.path(digests["job"]).unlink()
    (damage,) = verify.check(catalog).damages
    assert damage.referenced_by == ["job 1"]


def test_unreferenced_corrupt_file_is_moved(catalog: Catalog, digests: dict[str, str]) -> None:
    path = flip_bit(catalog, catalog.artifacts.put_bytes(b"nobody's").sha256)
    checked = verify.check(catalog)
    assert checked.is_sound and "Not referenced" in checked.damages[0].sentence
    assert not path.exists()


def test_repair_from_backup(catalog: Catalog, digests: dict[str, str], tmp_path: Path) -> None:
    copy = ArtifactStore(tmp_path / "copy")
    copy.put_bytes(b"first")
    flip_bit(catalog, copy.put_bytes(b"second").sha256)
    copy.path(digests["second"]).write_bytes(b"as bad")
    flip_bit(catalog, digests["first"])
    checked = verify.check(catalog, repair_from=copy)
    assert {damage.artifact.sha256: damage.is_repaired for damage in checked.damages} == {
        digests["first"]: True,
        digests["second"]: False,
    }
    assert not checked.is_sound
    assert catalog.artifacts.read_bytes(digests["first"]) == b"first"


def test_replaced_file_is_not_quarantined(
    catalog: Catalog, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    flip_bit(catalog, digests["first"])
    real = ArtifactStore.quarantine

    def quarantine(store: ArtifactStore, *arguments: object) -> object:
        store.put_bytes(b"first")
        return real(store, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ArtifactStore, "quarantine", quarantine)
    assert verify.check(catalog) == verify.CheckResult(4, sum(len(use) for use in digests))
    assert catalog.artifacts.read_bytes(digests["first"]) == b"first"


def test_broken_key_is_reported(catalog: Catalog, digests: dict[str, str]) -> None:
    connection = connect(catalog.home.catalog)
    connection.execute("DELETE FROM artifact WHERE sha256 = ?", (digests["first"],))
    connection.close()
    checked = verify.check(catalog)
    assert not checked.is_sound
    assert "of revision refers to a missing row of artifact" in checked.database[0]


def test_file_removed_by_a_job_is_not_damage(
    catalog: Catalog, digests: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    unreferenced = catalog.artifacts.put_bytes(b"a checkpoint before the last").sha256
    real = ArtifactStore.verify

    def verify_after_removal(store: ArtifactStore, digest: str) -> object:
        store.remove(unreferenced)
        return real(store, digest)

    monkeypatch.setattr(ArtifactStore, "verify", verify_after_removal)
    assert verify.check(catalog).damages == []


def test_rows_of_missing_model(catalog: Catalog, digests: dict[str, str]) -> None:
    """A check with damaged keys still verifies all artifacts."""
    connection = connect(catalog.home.catalog)
    connection.execute("DELETE FROM model")
    connection.close()
    flip_bit(catalog, digests["first"])
    checked = verify.check(catalog)
    assert len(checked.database) > 1
    assert checked.damages[0].referenced_by == ["revision aaaa of no model"]
