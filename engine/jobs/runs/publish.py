"""Publish a revision: write it, upload it, commit it once, verify it, tag it, and record it. Or unpublish it."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from ....store.catalog.tables import Model, Publication, Revision
from ....store.errors import InputError
from ....store.exchange.manifest import CARD, MANIFEST, Manifest, build_manifest, check_files, read_manifest
from ....store.history import history, publications
from ...progress import Progress
from ..locks import try_lock
from ..publication.card import build_card
from ..publication.preview import collect_publication_info, program_version
from ..specs import PublishSpec, UnpublishSpec
from ..worker.running import RunningJob
from . import hub
from .export import hash_base_files, write_export
from .hub import HubError, translate_hub_errors

_ANSWERS = "answers.json"
_MEGABYTE = 1e6


@dataclass(frozen=True)
class PreparedPublication:
    """The local files of a publication, by their name in the repo. `answers` are the scores of its requests."""

    model: Model
    revision: Revision
    manifest: Manifest
    answers: dict[str, Any]
    files: dict[str, Path]
    card: str
    # The newer publication that this one replaces, if it rolls back.
    rolled_back: Publication | None
    warnings: list[str]

    @property
    def summary(self) -> dict[str, Any]:
        """The fields that the results of a publication and of a dry run share."""
        return {
            "revision": self.revision.id,
            "files": {name: path.stat().st_size for name, path in self.files.items()},
            "rolls_back_from": self.rolled_back.revision if self.rolled_back else None,
            "warnings": self.warnings,
            **self.answers,
        }


def run_publish(running: RunningJob, spec: PublishSpec) -> dict[str, Any]:
    """Publish a revision. Returns the publication's id, commit, URL and account; for a dry run its plan."""
    running.report_activity("checking the account")
    account: hub.Account | None = None
    warnings: list[str] = []
    try:
        with translate_hub_errors(spec.repo):
            account = hub.find_account()
    except (InputError, HubError) as error:
        if not spec.dry_run:
            raise
        warnings = [str(error)]  # a dry run continues without the hub
    with translate_hub_errors(spec.repo):
        name = _full_name(spec.repo, account)
        repo = hub.find_repo(name) if account else None
        if repo is not None and not repo.is_private and not spec.public:
            raise InputError(
                f"{name} is public on the hub, so anyone could download this model. Confirm with --public, or name "
                "another repo."
            )
    with _hold_outbox(running, spec) as outbox:
        prepared = prepare(running, spec, name, outbox, warnings)
        if repo is not None and (foreign := repo.foreign_weights(prepared.files)):
            raise InputError(
                f"{name} holds weights that retcon did not publish ({', '.join(foreign[:3])}), and programs may load "
                "them instead. Publish to a new repo."
            )
        if spec.dry_run:
            return prepared.summary | {
                "repo": name,
                "account": asdict(account) if account else None,
                "exists": repo is not None if account else None,
                "what": prepared.manifest.kind,
                "removes": sorted(repo.stale_files(prepared.files)) if repo else [],
                "card": prepared.card,
            }
        assert account is not None  # only a dry run continues without an account
        with translate_hub_errors(name):
            result = _publish(running, spec, prepared, name, account)
        shutil.rmtree(outbox, ignore_errors=True)
    return result


def run_unpublish(running: RunningJob, spec: UnpublishSpec) -> dict[str, Any]:
    """Delete a tag or a repo. Returns it, and the number of publications that the catalog marks as unpublished."""
    with translate_hub_errors(spec.repo):
        repo = _full_name(spec.repo, hub.find_account())
        running.report_activity("removing", spec.tag or repo)
        if spec.tag is None:
            HfApi().delete_repo(repo)
        elif spec.tag not in {one.name for one in HfApi().list_repo_refs(repo).tags}:
            raise InputError(f"{repo} has no tag {spec.tag!r}.")
        else:
            HfApi().delete_tag(repo, tag=spec.tag)
    with running.catalog.write(durable=True) as session:
        count = publications.mark_unpublished(session, repo, spec.tag)
        return running.commit_result(session, {"repo": repo, "tag": spec.tag, "publications": count})


def _full_name(repo: str, account: hub.Account | None) -> str:
    return repo if "/" in repo or account is None else f"{account.name}/{repo}"


@contextmanager
def _hold_outbox(running: RunningJob, spec: PublishSpec) -> Iterator[Path]:
    """The folder of a revision's files until they are published. Only one job at a time may use it."""
    home = running.catalog.home
    name = f"{spec.revision}-{spec.export_kind}"
    with try_lock(home.locks / f"outbox-{name}.lock") as is_locked:
        if not is_locked:
            raise InputError(f"Another job is publishing {spec.revision} as {spec.export_kind}. Wait for it.")
        folder = home.outbox / name
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        existed = folder.exists()
        try:
            yield folder
        finally:
            if spec.dry_run and not existed:
                shutil.rmtree(folder, ignore_errors=True)


def prepare(
    running: RunningJob, spec: PublishSpec, repo: str, outbox: Path, warnings: list[str]
) -> PreparedPublication:
    """Write the publication's files to the outbox. Those of an earlier attempt are used if they are complete."""
    with running.catalog.read() as session:
        model = history.find_model(session, spec.model)
        revision = history.find_revision(session, model, spec.revision)
        info = collect_publication_info(session, model, revision, spec, repo)
    folder = outbox / "files"
    manifest = _read_earlier(running, folder, model, revision, spec)
    if manifest is None:
        shutil.rmtree(outbox, ignore_errors=True)
        temporary = outbox / "partial"
        manifest, check = write_export(
            running, spec.model, revision.id, spec.export_kind, spec.shard_size, temporary
        )
        (outbox / _ANSWERS).write_text(json.dumps(asdict(check) | {"shard_size": spec.shard_size}))
        temporary.rename(folder)
    card = spec.card or build_card(manifest, info.card_info)
    (outbox / CARD).write_text(card, encoding="utf-8")
    files = {name: folder / name for name in (*manifest.files, MANIFEST)} | {CARD: outbox / CARD}
    files |= {f"pictures/{name}": running.catalog.artifacts.path(digest) for name, digest, _ in spec.pictures}
    answers = json.loads((outbox / _ANSWERS).read_text())
    warnings = [*warnings, *info.warnings]
    return PreparedPublication(model, revision, manifest, answers, files, card, info.rolled_back, warnings)


def _read_earlier(
    running: RunningJob, folder: Path, model: Model, revision: Revision, spec: PublishSpec
) -> Manifest | None:
    """The manifest of an earlier attempt, if its files are complete and those of this publication."""
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        with running.catalog.read() as session:
            base_files = hash_base_files(model.path)
            expected = build_manifest(
                session, model, revision, spec.export_kind, program_version(), base_files
            )
        if replace(manifest, files={}) != expected:
            return None
        check_files(folder, manifest)
        if json.loads((folder.parent / _ANSWERS).read_text())["shard_size"] != spec.shard_size:
            return None
    except (InputError, OSError, ValueError, KeyError):
        return None
    return manifest


def _publish(
    running: RunningJob, spec: PublishSpec, prepared: PreparedPublication, name: str, account: hub.Account
) -> dict[str, Any]:
    url = HfApi().create_repo(name, private=not spec.public, exist_ok=True)
    repo = hub.find_repo(url.repo_id)
    if repo is None:
        raise HubError(f"The hub created {name} but does not show it yet. Resume this job in a moment.")
    commit = _build_commit(running, spec, prepared, repo, url.repo_id)
    oid = hub.find_commit(commit, repo)
    if oid is None:
        if repo.head != commit.parent:
            raise InputError(
                f"Another commit to {commit.repo} was made meanwhile (its head is {repo.head[:10]}, it was "
                f"{commit.parent[:10]}). Check it, then publish again on top of it."
            )
        oid = _upload(running, commit)
    running.report_activity("comparing checksums")
    hub.verify_commit(commit, oid)
    tag = f"edit/{prepared.revision.id}"
    is_tagged = hub.tag_commit(commit.repo, oid, tag, prepared.revision.message)
    row = Publication(
        revision=prepared.revision.id,
        repo=commit.repo,
        commit=oid,
        kind=spec.export_kind,
        url=f"{url.endpoint}/{commit.repo}/commit/{oid}",
        account=account.name,
        tag=tag if is_tagged else None,
    )
    with running.catalog.write(durable=True) as session:
        known = publications.find_newest(session, commit.repo)
        if known is not None and (known.commit, known.revision) == (oid, row.revision):
            row = known  # published again without a change
        session.add(row)
        session.flush()
        fields = {"repo": row.repo, "commit": oid, "url": row.url, "account": account.name, "tag": row.tag}
        result = {"publication": row.id, "private": repo.is_private} | fields | prepared.summary
        return running.commit_result(session, result)


def _build_commit(
    running: RunningJob, spec: PublishSpec, prepared: PreparedPublication, repo: hub.RemoteRepo, name: str
) -> hub.HubCommit:
    """The commit to create. Its parent is the repo's head at the first attempt of the job."""
    state = running.job.checkpoint
    if "parent" not in state:
        with running.catalog.write() as session:
            running.checkpoint(session, state | {"parent": repo.head})
    revision = prepared.revision
    default = (
        f"Roll back to {revision.id}" if prepared.rolled_back else f"Edit {revision.id}: {revision.message}"
    )
    digest = hub.hash_file(prepared.files[MANIFEST])[0]
    return hub.HubCommit(
        name,
        prepared.files,
        repo.stale_files(prepared.files),
        parent=running.job.checkpoint["parent"],
        title=" ".join((spec.message or default).split())[:200],
        description=f"Revision {revision.id} of {prepared.model.name} as {spec.export_kind}; "
        f"{MANIFEST} sha256 {digest}",
    )


def _upload(running: RunningJob, commit: hub.HubCommit) -> str:
    """Upload the files and create the commit. Returns its id."""
    sizes = {name: path.stat().st_size for name, path in commit.files.items()}
    total, finished = sum(sizes.values()), 0

    def report(name: str, offset: int) -> None:
        running.report(Progress((finished + offset) / _MEGABYTE, total / _MEGABYTE, "MB", "uploading", name))

    if not hub.has_xet_storage(commit.repo):
        running.report_activity("uploading", "as LFS, because this hub has no xet storage")
    additions = commit.additions(report)
    # One after another, so that the progress counts finished files. The client skips files that the hub has.
    for addition in additions:
        HfApi().preupload_lfs_files(commit.repo, [addition], free_memory=False)
        finished += sizes[addition.path_in_repo]
        report(addition.path_in_repo, 0)
    running.report_activity("committing")
    return hub.create_commit(commit, additions)
