"""Manifests of exports: content, former field names, and rejection of invalid ones."""

import json
from typing import Any

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Model, Revision
from retcon.store.errors import InputError
from retcon.store.exchange.manifest import Manifest, add_steps, build_manifest, check_name
from retcon.store.history import history


@pytest.fixture
def manifest(catalog: Catalog, model: Model) -> Manifest:
    """A base and two edits, of which the first is reverted."""
    model.fingerprint = "f" * 64
    with catalog.write() as session:
        at = history.add_base(session, model)
        for number in range(2):
            row = session.merge(catalog.artifacts.put_bytes(bytes([number])))
            edit = Revision(
                model_id=0, parent=at.id, kind="edit", fingerprint=str(number) * 64, delta=row.sha256,
                requests=[{"subject": "Tower", "prompt": "{} is in", "target_new": "Rome"}],
            )  # fmt: skip
            history.commit_revision(session, model, edit, "edit")
            at = edit
        first = history.load_path(session, at.id)[1]
        last = Revision(model_id=0, parent=at.id, kind="revert", reverts=first.id, fingerprint="a" * 64)
        history.commit_revision(session, model, last, "revert")
        return build_manifest(session, model, last, "delta", "retcon", {})


def test_there_and_back(manifest: Manifest) -> None:
    assert Manifest.parse(manifest.as_text(), "here") == manifest
    assert [step.kind for step in manifest.steps] == ["base", "edit", "edit", "revert"]
    assert [step.id for step in manifest.live_steps] == [manifest.steps[2].id]
    assert manifest.reverted == {manifest.steps[1].id}


def test_former_field_names_still_load(manifest: Manifest) -> None:
    record = json.loads(manifest.as_text())
    record["what"] = record.pop("kind")
    for step in record["steps"]:
        step["figures"] = step.pop("statistics")
        for request in step["requests"]:
            request |= {"wordings": ["{} lies in"], "paraphrases": ["Where is it?"]}
    parsed = Manifest.parse(json.dumps(record), "retcon.json")
    assert (parsed.kind, parsed.steps[1].statistics) == (manifest.kind, manifest.steps[1].statistics)
    assert parsed.steps[1].requests[0]["train_paraphrases"] == ["{} lies in"]
    assert parsed.steps[1].requests[0]["eval_paraphrases"] == ["Where is it?"]


def test_steps_into_another_catalog(manifest: Manifest, catalog: Catalog, tmp_path: Any) -> None:
    from retcon.store.home import Home

    other = Catalog.open(Home(tmp_path / "other"))
    with catalog.read() as session:
        revisions = history.list_revisions(session, history.find_model(session, "tiny"))
    with other.write() as session:
        model = Model(
            name="mine", source="starter", source_kind="starter", path="", architecture="", dtype="float32",
            parameters=1, size=1, fingerprint="f" * 64,
        )  # fmt: skip
        history.add_base(session, model)
        for edit in manifest.live_steps + manifest.steps[1:2]:
            session.merge(catalog.artifacts.put_bytes(b"\1" if edit in manifest.live_steps else b"\0"))
        made = add_steps(session, model, manifest)
        again = add_steps(session, model, manifest)
        assert [one.id for one in again] == [one.id for one in made]
        assert model.head == made[-1].id
        here = history.list_revisions(session, model)
        moves = [move.reason for move in history.list_head_moves(session, model)]
    assert [one.id for one in here][1:] == [one.id for one in revisions][1:]
    assert [one.fingerprint for one in here] == [one.fingerprint for one in revisions]
    assert moves == ["add", "import", "import", "import"]
    other.close()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"format": "other"}, "another version"),
        ({"version": 2}, "another version"),
        ({"fingerprint": "../../etc"}, "field 'fingerprint' is"),
        ({"files": {"../out.safetensors": {"sha256": "0" * 64, "size": 1}}}, "not a valid name of a file"),
        ({"files": {"a": {"sha256": "0" * 64}}}, "field .*size' is missing"),
        ({"steps": []}, "do not lead"),
        ({"revision": "ffffffffff"}, "do not lead"),
        ({"kind": "virus"}, "field 'kind' is 'virus'"),
        ({"base": 3}, "retcon.json is not a valid manifest"),
    ],
)
def test_invalid_manifest_is_rejected(change: dict[str, Any], says: str, manifest: Manifest) -> None:
    with pytest.raises(InputError, match=says):
        Manifest.parse(json.dumps(json.loads(manifest.as_text()) | change), "retcon.json")


@pytest.mark.parametrize(
    "change", [{"parent": None}, {"kind": "base"}, {"id": "../x"}, {"delta": None}, {"created": "yesterday"}]
)
def test_invalid_step_is_rejected(change: dict[str, Any], manifest: Manifest) -> None:
    record = json.loads(manifest.as_text())
    record["steps"][2] |= change
    with pytest.raises(InputError):
        Manifest.parse(json.dumps(record), "retcon.json")


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "..", "../a", "a/../b", "a\\b", "C:a", "a\0b", "a/b/c", "", "a//b", "./a", "a\nb"]
)
def test_unsafe_file_names_are_rejected(name: str) -> None:
    with pytest.raises(ValueError):
        check_name(name)


@pytest.mark.parametrize("name", ["model-00001-of-00003.safetensors", "deltas/a.safetensors", "README.md"])
def test_safe_file_names_are_accepted(name: str) -> None:
    check_name(name)
