"""A publish job in this process: uploads and commits happen once, and each error of the hub has a plain message."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from retcon.engine.errors import StopRequested
from retcon.engine.jobs.publication.preview import build_preview
from retcon.engine.jobs.runs import publish
from retcon.engine.jobs.runs.hub import HubError
from retcon.engine.jobs.specs import PublishSpec, UnpublishSpec
from retcon.engine.jobs.worker.running import RunningJob
from retcon.engine.progress import Progress
from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Publication
from retcon.store.errors import InputError
from retcon.store.exchange.manifest import read_manifest
from retcon.store.history import history
from retcon.store.home import Home
from retcon.tests.helpers.hub_client import Client, running_of, spec_of
from retcon.tests.helpers.hub_stand_in import StandIn, stand_in
from retcon.tests.helpers.hub_state import TOKEN, Commit, Entry, Fault, Repo

pytestmark = pytest.mark.slow

Push = Callable[..., dict[str, Any]]


@pytest.fixture
def catalog(ready_home: Path, tmp_path: Path) -> Any:
    shutil.copytree(ready_home, tmp_path / "home")
    opened = Catalog.open(Home(tmp_path / "home"))
    yield opened
    opened.close()


@pytest.fixture
def push(catalog: Catalog, client: Client) -> Push:
    """Publish, as a new job or by resuming an interrupted one."""

    def push(
        revision: str = "head", what: str = "adapter", again: RunningJob | None = None, **more: Any
    ) -> dict[str, Any]:
        running = again or running_of(catalog, spec_of(catalog, revision, what, **more))
        return publish.run_publish(running, PublishSpec(**running.job.spec))

    return push


def rows(catalog: Catalog) -> list[Publication]:
    with catalog.read() as session:
        return list(session.exec(select(Publication)))


def commits(hub: StandIn, repo: str = "me/tower") -> list[Commit]:
    """The commits that retcon created, without the initial one."""
    return hub.repos[repo].commits[1:] if repo in hub.repos else []


def test_publish_creates_one_commit_with_all_files(push: Push, catalog: Catalog, hub: StandIn) -> None:
    published = push(what="checkpoint")
    (commit,) = commits(hub)
    assert hub.repos["me/tower"].private and published["private"]
    assert set(commit.files) == {*published["files"], ".gitattributes"}
    assert {"README.md", "retcon.json", "config.json", "model.safetensors.index.json"} <= set(
        published["files"]
    )
    assert {name: len(hub.content("me/tower", name)) for name in published["files"]} == published["files"]
    (row,) = rows(catalog)
    assert (row.commit, row.repo, row.account, row.kind) == (commit.oid, "me/tower", "me", "checkpoint")
    assert hub.repos["me/tower"].tags == {row.tag: commit.oid} and row.tag == f"edit/{row.revision}"
    assert row.url == f"{hub.url}/me/tower/commit/{commit.oid}"
    assert hub.token_shown_to_storage == 0
    assert not list(catalog.home.outbox.glob(f"{row.revision}-checkpoint"))


def test_publishing_again_without_change_adds_nothing(push: Push, catalog: Catalog, hub: StandIn) -> None:
    first = push()
    sent = sum(hub.received.values())
    # The outbox was deleted, so the export is written again, with the same bytes.
    assert push()["commit"] == first["commit"]
    assert len(commits(hub)) == len(rows(catalog)) == 1
    assert sum(hub.received.values()) == sent


def test_rollback_publishes_the_earlier_revision(push: Push, catalog: Catalog, hub: StandIn) -> None:
    older = push("head~1", "checkpoint")
    newer = push("head", "checkpoint")
    assert (older["rolls_back_from"], newer["rolls_back_from"]) == (None, None)
    back = push("head~1", "checkpoint")
    assert back["rolls_back_from"] == newer["revision"]
    titles = [one.title for one in commits(hub)]
    assert (
        titles[0].startswith("Edit") and titles[1].startswith("Edit") and titles[2].startswith("Roll back to")
    )
    assert (
        f"rolled back to this state from revision `{newer['revision']}`"
        in hub.content("me/tower", "README.md").decode()
    )
    # The tag still names the first publication, which has the same weights.
    assert back["tag"] is None
    assert hub.repos["me/tower"].tags[f"edit/{older['revision']}"] == older["commit"]
    weights = [name for name in back["files"] if name.startswith("model-")]
    for name in weights:
        assert hub.content("me/tower", name) == hub.content("me/tower", name, older["commit"])


def test_stale_files_of_earlier_publication_are_removed(push: Push, hub: StandIn) -> None:
    published = push("head~1", "checkpoint")
    hub.repos["me/tower"].commits[-1].files["notes.txt"] = Entry(b"mine")
    push("head", "adapter")
    files = set(commits(hub)[-1].files)
    assert "notes.txt" in files and "adapter_config.json" in files
    assert not files & {
        name for name in published["files"] if name.startswith("model") or name == "config.json"
    }


def test_foreign_weights_are_refused(push: Push, hub: StandIn, catalog: Catalog) -> None:
    hub.repos["me/tower"] = Repo("me/tower", True)
    hub.repos["me/tower"].commits[-1].files["pytorch_model.bin"] = Entry(b"x")
    with pytest.raises(InputError, match=r"pytorch_model\.bin.*new repo"):
        push()
    assert commits(hub) == [] and rows(catalog) == []


def test_public_repo_needs_confirmation(push: Push, hub: StandIn) -> None:
    hub.repos["me/tower"] = Repo("me/tower", False)
    with pytest.raises(InputError, match="--public"):
        push()
    assert commits(hub) == []
    assert push(public=True)["private"] is False
    push(repo="fresh", public=True)
    assert not hub.repos["me/fresh"].private


@pytest.mark.parametrize(
    ("fault", "kind", "says"),
    [
        (Fault("GET", "whoami", 401), InputError, "retcon hub login"),
        (Fault("GET", "whoami", 503), HubError, "status 503"),
        (Fault("POST", "/repos/create", 403), InputError, "write role"),
        (Fault("POST", "/repos/create", 500), HubError, "status 500"),
        (Fault("POST", "/preupload/", 404), InputError, "has no repo"),
        (Fault("POST", "/objects/batch", 403), InputError, "may not write"),
        (Fault("PUT", "/storage/", 403), InputError, "may not write"),
        (Fault("POST", "/commit/", 401), InputError, "log"),
        (Fault("POST", "/commit/", 403), InputError, "may not write"),
        (Fault("POST", "/commit/", 409), InputError, "Run the command again"),
        (Fault("POST", "/commit/", 412), InputError, "Another commit to"),
        (Fault("POST", "/commit/", 429, headers={"Retry-After": "7"}), HubError, "in 7 seconds"),
        (Fault("POST", "/commit/", 429), HubError, "some minutes"),
        (Fault("POST", "/commit/", 500), HubError, "status 500"),
        (Fault("POST", "/commit/", 503), HubError, "Resume this job"),
        (Fault("POST", "/commit/", how="cut"), HubError, "cannot be reached"),
        (Fault("POST", "/commit/", how="race"), InputError, "Another commit to"),
    ],
    ids=lambda value: f"{value.on} {value.status or value.how}" if isinstance(value, Fault) else "",
)
def test_hub_errors_have_plain_messages(
    fault: Fault, kind: type[Exception], says: str, push: Push, hub: StandIn, catalog: Catalog
) -> None:
    hub.faults.append(Fault(**vars(fault)))
    with pytest.raises(kind, match=says) as caught:
        push()
    text = str(caught.value)
    assert TOKEN not in text and "\n" not in text and "Traceback" not in text
    assert caught.value.__suppress_context__, "the client's error may hold a signed URL"
    assert rows(catalog) == [] and not [one for one in commits(hub) if one.title != "somebody else"]
    # A new job continues, and uploaded files are not uploaded again.
    sent = dict(hub.received)
    published = push()
    assert commits(hub)[-1].oid == published["commit"] and len(rows(catalog)) == 1
    assert {oid: size for oid, size in hub.received.items() if oid in sent} == sent or fault.method == "PUT"


@pytest.mark.parametrize("fault", [Fault("PUT", "/storage/", 503), Fault("PUT", "/storage/", how="cut"),
                                   Fault("POST", "/verify", 500), Fault("POST", "/commit/", how="slow")],
                         ids=["503", "cut", "verify", "slow"])  # fmt: skip
def test_transient_errors_are_retried(fault: Fault, push: Push, hub: StandIn) -> None:
    hub.faults.append(Fault(**vars(fault)))
    published = push()
    assert hub.faults[0].times == 0
    assert [one.oid for one in commits(hub)] == [published["commit"]]


def test_lost_response_creates_no_second_commit(push: Push, hub: StandIn, catalog: Catalog) -> None:
    hub.faults.append(Fault("POST", "/commit/", how="lost"))
    published = push()
    assert [one.oid for one in commits(hub)] == [published["commit"]]
    assert rows(catalog)[0].commit == published["commit"]


def test_resume_finds_commit_of_first_attempt(push: Push, hub: StandIn, catalog: Catalog) -> None:
    """The tag failed. The resumed job finds its commit, although another one was made on top of it."""
    running = running_of(catalog, spec_of(catalog, "head", "adapter"))
    hub.faults.append(Fault("POST", "/tag/", 500))
    with pytest.raises(HubError):
        push(again=running)
    ours = commits(hub)[0]
    hub.repos["me/tower"].add("somebody else", "", ours.files | {"notes.txt": Entry(b"mine")})
    assert push(again=running)["commit"] == ours.oid
    assert [one.title for one in commits(hub)] == [ours.title, "somebody else"]


def test_resume_refuses_another_parent(push: Push, hub: StandIn, catalog: Catalog) -> None:
    running = running_of(catalog, spec_of(catalog, "head", "adapter"))
    hub.faults.append(Fault("POST", "/commit/", 500))
    with pytest.raises(HubError):
        push(again=running)
    hub.repos["me/tower"].add("somebody else", "", {"notes.txt": Entry(b"mine")})
    with pytest.raises(InputError, match="publish again on top of it"):
        push(again=running)
    # A new job publishes on top of it.
    push()
    assert commits(hub)[-1].files["notes.txt"].data == b"mine"


def test_corrupt_upload_is_detected(push: Push, hub: StandIn, catalog: Catalog) -> None:
    hub.faults.append(Fault("PUT", "/storage/", how="corrupt"))
    with pytest.raises(HubError, match=r"adapter_model\.safetensors is corrupt"):
        push()
    assert rows(catalog) == [] and hub.repos["me/tower"].tags == {}


@pytest.mark.parametrize("transfer", ["basic", "multipart"])
def test_hub_without_xet_gets_lfs_uploads(
    transfer: str, push: Push, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    with stand_in(transfer=transfer) as hub:
        client.use(hub)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        push()
        assert hub.count("GET", "/xet-write-token/") == 1 and hub.count("PUT", "/storage/") == 3
        assert len(commits(hub)) == 1


def test_hub_with_xet_gets_xet_uploads(
    push: Push, client: Client, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from huggingface_hub import constants

    with stand_in(xet=tmp_path / "cas") as hub:
        client.use(hub)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
        published = push()
        assert hub.count("PUT", "/storage/") == 0
        assert [one.oid for one in commits(hub)] == [published["commit"]]


def test_unreachable_hub(push: Push, client: Client, catalog: Catalog) -> None:
    with stand_in() as closed:
        client.use(closed)
    with pytest.raises(HubError, match="cannot be reached"):
        push()
    plan = push(dry_run=True)
    assert plan["account"] is None and "cannot be reached" in plan["warnings"][0]
    assert rows(catalog) == []


def test_missing_token_is_refused_before_requests(
    push: Push, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hub: StandIn
) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(InputError, match="retcon hub login"):
        push()
    assert hub.seen == []


def test_read_only_token_is_refused(push: Push, hub: StandIn) -> None:
    hub.role = "read"
    with pytest.raises(InputError, match="only read"):
        push()
    assert hub.count("POST", "/create") == 0


def test_dry_run_uploads_nothing(push: Push, hub: StandIn, catalog: Catalog) -> None:
    plan = push(what="checkpoint", dry_run=True)
    assert plan["account"] == {"name": "me", "role": "write"} and plan["exists"] is False
    assert {method for method, _ in hub.seen} == {"GET"} and hub.repos == {}
    assert plan["files"]["README.md"] == len(plan["card"].encode())
    assert any(name.startswith("model-0") for name in plan["files"]) and rows(catalog) == []


@pytest.mark.parametrize("what", ["checkpoint", "adapter"])
def test_preview_matches_publication(what: str, push: Push, catalog: Catalog) -> None:
    spec = spec_of(catalog, "head", what, repo="me/tower")
    preview = build_preview(catalog, spec)
    plan = push(what=what, dry_run=True)
    for line in preview.card.splitlines():
        assert line in plan["card"]
    assert (preview.warnings, preview.rolls_back_from) == (plan["warnings"], None)
    assert sum(preview.sizes.values()) == pytest.approx(sum(plan["files"].values()), rel=0.2)


def test_custom_card_is_published(push: Push, hub: StandIn) -> None:
    push(card="---\nlicense: mit\n---\n\n# Mine\n")
    assert hub.content("me/tower", "README.md").decode() == "---\nlicense: mit\n---\n\n# Mine\n"


def test_damaged_outbox_is_written_again(push: Push, catalog: Catalog, hub: StandIn) -> None:
    spec = spec_of(catalog, "head", "adapter")
    folder = catalog.home.outbox / f"{spec.revision}-adapter" / "files"
    manifest = read_manifest(folder)
    assert manifest is not None
    (folder / "adapter_model.safetensors").write_bytes(b"spoiled")
    push()
    data = hub.content("me/tower", "adapter_model.safetensors")
    assert len(data) == manifest.files["adapter_model.safetensors"].size


class CanceledDuringUpload(RunningJob):
    """A job that is canceled during its first upload."""

    def report(self, progress: Progress) -> None:
        self.stopping = progress.activity == "uploading" and progress.done > 0
        super().report(progress)


def test_canceled_upload_publishes_nothing(
    catalog: Catalog, hub: StandIn, client: Client, push: Push
) -> None:
    spec = spec_of(catalog, "head", "checkpoint")
    running = running_of(catalog, spec)
    with pytest.raises(StopRequested):
        publish.run_publish(CanceledDuringUpload(catalog, running.job, running.owner), spec)
    assert commits(hub) == [] and rows(catalog) == []
    assert push(again=running)["commit"] == commits(hub)[0].oid


def test_progress_counts_megabytes(catalog: Catalog, hub: StandIn, client: Client) -> None:
    reports: list[Progress] = []

    class RecordsProgress(RunningJob):
        def report(self, progress: Progress) -> None:
            reports.append(progress)

    spec = spec_of(catalog, "head", "checkpoint")
    running = running_of(catalog, spec)
    published = publish.run_publish(RecordsProgress(catalog, running.job, running.owner), spec)
    uploads = [one for one in reports if one.unit == "MB"]
    assert {one.total for one in uploads} == {sum(published["files"].values()) / 1e6}
    assert [one.done for one in uploads] == sorted(one.done for one in uploads)
    assert uploads[-1].done == uploads[-1].total


def test_unpublish(push: Push, hub: StandIn, catalog: Catalog) -> None:
    published = push()

    def take(**words: Any) -> dict[str, Any]:
        spec = UnpublishSpec(**{"repo": "tower"} | words)
        return publish.run_unpublish(running_of(catalog, spec), spec)

    with pytest.raises(InputError, match="no tag"):
        take(tag="edit/none")
    assert take(tag=published["tag"])["publications"] == 1
    assert hub.repos["me/tower"].tags == {} and len(commits(hub)) == 1
    assert rows(catalog)[0].unpublished is not None
    assert take() == {"repo": "me/tower", "tag": None, "publications": 0}
    assert hub.repos == {}
    with pytest.raises(InputError, match="has no repo"):
        take()


def test_manifest_matches_history(push: Push, hub: StandIn, catalog: Catalog) -> None:
    push()
    record = json.loads(hub.content("me/tower", "retcon.json"))
    with catalog.read() as session:
        model = history.find_model(session, "tiny")
        way = history.load_path(session, model.head or "")
    assert [step["id"] for step in record["steps"]] == [step.id for step in way]
    assert len(record["evaluations"]) == 2
