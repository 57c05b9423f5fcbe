"""Publish a revision: write it, send it, commit it once, see that it arrived, name it, and note it in the catalog."""

import json
import shutil
from collections.abc import Iterator, Mapping
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
from .export import base_files, write_export
from .hub import HubFailed, plain_hub_errors

_ANSWERS = "answers.json"
_MEGABYTE = 1e6


@dataclass(frozen=True)
class Prepared:
    """What is to be published, as it lies here."""

    model: Model
    revision: Revision
    manifest: Manifest
    answers: dict[str, Any]
    files: dict[str, Path]
    card: str
    before: Publication | None  # what was published last, if this goes back from it
    warnings: list[str]


def run_publish(running: RunningJob, spec: PublishSpec) -> dict[str, Any]:
    """Returns the publication's id, commit, url and account; of a dry run what would be sent."""
    with plain_hub_errors(spec.repo):
        running.report_activity("asking the hub who this is")
        who, warnings = _account(spec)
        repo = _full_name(spec.repo, who)
        there = hub.remote(repo) if who else None
        if there is not None:
            _check_visibility(there, spec, repo)
    with _outbox(running, spec) as outbox:
        prepared = prepare(running, spec, repo, outbox, warnings)
        if there is not None:
            _check_weights(there, prepared, repo)
        if spec.dry_run:
            return _plan(prepared, who, there, repo)
        with plain_hub_errors(repo):
            made = _publish(running, spec, prepared, repo, who)
        shutil.rmtree(outbox, ignore_errors=True)
    return made


def _account(spec: PublishSpec) -> tuple[hub.Account | None, list[str]]:
    """Who publishes; a dry run works without the hub, and says so."""
    if not spec.dry_run:
        return hub.account(), []
    try:
        with plain_hub_errors(spec.repo):
            return hub.account(), []
    except (InputError, HubFailed) as error:
        return None, [str(error)]


def _full_name(repo: str, who: hub.Account | None) -> str:
    return repo if "/" in repo or who is None else f"{who.name}/{repo}"


def _check_visibility(there: hub.Remote, spec: PublishSpec, repo: str) -> None:
    if not there.private and not spec.public:
        raise InputError(
            f"{repo} is public on the hub, so everybody would see this model: say so with --public, or name another "
            "repo"
        )


def _check_weights(there: hub.Remote, prepared: Prepared, repo: str) -> None:
    if foreign := there.foreign_weights(prepared.files):
        raise InputError(
            f"{repo} holds weights that retcon did not put there ({', '.join(foreign[:3])}), which who loads it could "
            "get instead: publish to a new repo"
        )


@contextmanager
def _outbox(running: RunningJob, spec: PublishSpec) -> Iterator[Path]:
    """Where the files of one revision lie until they are published; one job at a time has it."""
    home = running.catalog.home
    name = f"{spec.revision}-{spec.what}"
    with try_lock(home.locks / f"outbox-{name}.lock") as mine:
        if not mine:
            raise InputError(f"another job is publishing {spec.revision} as {spec.what} now; wait for it")
        folder = home.outbox / name
        folder.parent.mkdir(mode=0o700, exist_ok=True)
        waiting = folder.exists()
        try:
            yield folder
        finally:
            if spec.dry_run and not waiting:
                shutil.rmtree(folder, ignore_errors=True)


def prepare(running: RunningJob, spec: PublishSpec, repo: str, outbox: Path, warnings: list[str]) -> Prepared:
    """Write to the outbox what is to be published, unless an earlier attempt has; the card is always made anew."""
    with running.catalog.read() as session:
        model = history.find_model(session, spec.model)
        revision = history.find_revision(session, model, spec.revision)
        info = collect_publication_info(session, model, revision, spec, repo)
    folder = outbox / "files"
    manifest = _as_before(running, folder, model, revision, spec)
    if manifest is None:
        shutil.rmtree(outbox, ignore_errors=True)
        aside = outbox / "partial"
        export = write_export(running, spec.model, revision.id, spec.what, spec.shard_size, aside)
        (outbox / _ANSWERS).write_text(json.dumps(asdict(export.found) | {"shard_size": spec.shard_size}))
        aside.rename(folder)
        manifest = export.manifest
    card = spec.card or build_card(manifest, info.card_info)
    (outbox / CARD).write_text(card, encoding="utf-8")
    files = {name: folder / name for name in (*manifest.files, MANIFEST)} | {CARD: outbox / CARD}
    files |= {f"pictures/{name}": running.catalog.artifacts.path(digest) for name, digest, _ in spec.pictures}
    answers = json.loads((outbox / _ANSWERS).read_text())
    return Prepared(
        model, revision, manifest, answers, files, card, info.rolled_back, [*warnings, *info.warnings]
    )


def _as_before(
    running: RunningJob, folder: Path, model: Model, revision: Revision, spec: PublishSpec
) -> Manifest | None:
    """The manifest of what an earlier attempt wrote, if that is whole and still what is wanted."""
    try:
        manifest = read_manifest(folder)
        if manifest is None:
            return None
        with running.catalog.read() as session:
            wanted = build_manifest(
                session, model, revision, spec.what, program_version(), base_files(model.path)
            )
        if replace(manifest, files={}) != wanted:
            return None
        check_files(folder, manifest)
        if json.loads((folder.parent / _ANSWERS).read_text())["shard_size"] != spec.shard_size:
            return None
    except (InputError, OSError, ValueError, KeyError):
        return None
    return manifest


def _plan(prepared: Prepared, who: hub.Account | None, there: hub.Remote | None, repo: str) -> dict[str, Any]:
    """What a dry run tells."""
    return {
        "repo": repo,
        "account": asdict(who) if who else None,
        "exists": there is not None if who else None,
        "revision": prepared.revision.id,
        "what": prepared.manifest.kind,
        "files": {name: path.stat().st_size for name, path in prepared.files.items()},
        "removes": sorted(there.stale(prepared.files)) if there else [],
        "card": prepared.card,
        "rolls_back_from": prepared.before.revision if prepared.before else None,
        "warnings": prepared.warnings,
        **prepared.answers,
    }


def _publish(
    running: RunningJob, spec: PublishSpec, prepared: Prepared, repo: str, who: hub.Account | None
) -> dict[str, Any]:
    assert who is not None  # only a dry run goes on without
    api = HfApi()
    url = api.create_repo(repo, private=not spec.public, exist_ok=True)
    there = hub.remote(url.repo_id)
    if there is None:
        raise HubFailed(f"the hub made {repo} and does not show it; resume this job in a moment")
    push = _push(running, spec, prepared, there, url.repo_id)
    oid = hub.committed(push, there)
    if oid is None:
        _check_parent(push, there)
        oid = _send(running, push)
    running.report_activity("comparing checksums")
    hub.check_arrived(push, oid)
    tag = f"edit/{prepared.revision.id}"
    tagged = hub.tag_commit(push.repo, oid, tag, prepared.revision.message)
    row = Publication(
        revision=prepared.revision.id,
        repo=push.repo,
        commit=oid,
        kind=spec.what,
        url=f"{url.endpoint}/{push.repo}/commit/{oid}",
        account=who.name,
        tag=tag if tagged else None,
    )
    with running.catalog.write(durable=True) as session:
        known = publications.find_newest(session, push.repo)
        if known is not None and (known.commit, known.revision) == (oid, row.revision):
            row = known  # published again, and nothing had changed
        session.add(row)
        session.flush()
        return running.commit_result(
            session,
            {"publication": row.id, "repo": push.repo, "commit": oid, "url": row.url, "account": who.name,
             "revision": row.revision, "tag": row.tag, "private": there.private, "warnings": prepared.warnings,
             "rolls_back_from": prepared.before.revision if prepared.before else None,
             "files": {name: path.stat().st_size for name, path in push.files.items()}, **prepared.answers},
        )  # fmt: skip


def _push(
    running: RunningJob, spec: PublishSpec, prepared: Prepared, there: hub.Remote, repo: str
) -> hub.Push:
    """The commit to make. Its parent is the commit that was there when the job began, also after a restart."""
    state = running.job.checkpoint
    if "parent" not in state:
        with running.catalog.write() as session:
            running.checkpoint(session, state | {"parent": there.head})
    revision = prepared.revision
    title = spec.message or (
        f"Roll back to {revision.id}" if prepared.before else f"Edit {revision.id}: {revision.message}"
    )
    digest = hub.digests_of(prepared.files[MANIFEST])[0]
    description = (
        f"Revision {revision.id} of {prepared.model.name} as {spec.what}; {MANIFEST} sha256 {digest}"
    )
    one_line = " ".join(title.split())[:200]
    return hub.Push(
        repo,
        prepared.files,
        there.stale(prepared.files),
        running.job.checkpoint["parent"],
        one_line,
        description,
    )


def _check_parent(push: hub.Push, there: hub.Remote) -> None:
    if there.head != push.parent:
        raise InputError(
            f"somebody else committed to {push.repo} meanwhile (its head is {there.head[:10]}, it was "
            f"{push.parent[:10]}); look at what is there, then publish again on top of it"
        )


def _send(running: RunningJob, push: hub.Push) -> str:
    sizes: Mapping[str, int] = {name: path.stat().st_size for name, path in push.files.items()}
    total, finished = sum(sizes.values()), 0

    def report(name: str, at: int) -> None:
        running.report(Progress((finished + at) / _MEGABYTE, total / _MEGABYTE, "MB", f"sending {name}"))

    def done(name: str) -> None:
        nonlocal finished
        finished += sizes[name]
        report(name, 0)

    if not hub.without_xet_if_lacking(push.repo):
        running.report_activity("this hub has no xet storage: sending as LFS")
    additions = push.additions(report)
    hub.upload(push, additions, done)
    running.report_activity("committing")
    return hub.commit(push, additions)


def run_unpublish(running: RunningJob, spec: UnpublishSpec) -> dict[str, Any]:
    """Returns what was removed and how many publications of the catalog that were."""
    with plain_hub_errors(spec.repo):
        who = hub.account()
        repo = spec.repo if "/" in spec.repo else f"{who.name}/{spec.repo}"
        running.report_activity(f"removing {spec.tag or repo}")
        if spec.tag is None:
            HfApi().delete_repo(repo)
        elif spec.tag not in {one.name for one in HfApi().list_repo_refs(repo).tags}:
            raise InputError(f"{repo} has no tag {spec.tag!r}")
        else:
            HfApi().delete_tag(repo, tag=spec.tag)
    with running.catalog.write(durable=True) as session:
        count = publications.mark_unpublished(session, repo, spec.tag)
        return running.commit_result(session, {"repo": repo, "tag": spec.tag, "publications": count})
