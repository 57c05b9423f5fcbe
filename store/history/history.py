"""A model's history: a tree of revisions like git's, a head, and the record of the head's moves."""

import hashlib
import json
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import PurePath
from typing import Any

from sqlmodel import Session, col, select

from ..catalog.tables import HeadMove, Model, Revision
from ..errors import CatalogError, InputError, NotFound
from .lineage import find_reverted

_STEPS_BACK = re.compile(r"(.+?)~(\d*)")
_SHORTEST_PREFIX = 3


def revision_id(**content: Any) -> str:
    """The first 10 hex digits of the sha256 of `content` as canonical JSON.

    `content` is what makes a revision itself: model (its name), parent, kind, reverts, method, hparams, seed,
    requests, delta, message, created.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _plain(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a revision cannot hold a {type(value).__name__}")


def id_of(model: Model, revision: Revision) -> str:
    """The id that the content of `revision` gives it."""
    return revision_id(
        model=model.name,
        parent=revision.parent,
        kind=revision.kind,
        reverts=revision.reverts,
        method=revision.method,
        hparams=revision.hparams,
        seed=revision.seed,
        requests=revision.requests,
        delta=revision.delta,
        message=revision.message,
        created=revision.created,
    )


def load_path(session: Session, revision_id: str) -> list[Revision]:
    """The revisions from the base to this one, base first. NotFound if there is no such revision."""
    found: list[Revision] = []
    at: str | None = revision_id
    seen: set[str] = set()
    while at is not None:
        revision = session.get(Revision, at)
        if revision is None:
            raise NotFound(f"There is no revision {at}: `retcon history MODEL` lists a model's revisions.")
        if at in seen:
            raise CatalogError(f"The history of revision {revision_id} runs in a circle: restore a backup.")
        seen.add(at)
        found.append(revision)
        at = revision.parent
    return found[::-1]


def live_edits(path: Sequence[Revision]) -> list[Revision]:
    """The edits whose deltas make up the weights at the path's end, in the order of the path.

    An edit that was taken out and brought back stands at its original place, so the weights are again the
    same to the bit.
    """
    out = find_reverted(path)
    return [revision for revision in path if revision.kind == "edit" and revision.id not in out]


def dependent_edits(path: Sequence[Revision], revision: Revision) -> list[Revision]:
    """The live edits behind one on the path that write about a subject of it: they were made with it in the weights,
    and may not hold without it."""
    about = {request["subject"] for request in revision.requests}
    ids = [step.id for step in path]
    return [
        edit
        for edit in live_edits(path)
        if ids.index(edit.id) > ids.index(revision.id)
        and about & {request["subject"] for request in edit.requests}
    ]


def check_revert(path: Sequence[Revision], revision: Revision) -> None:
    """Raise InputError if taking out `revision` at the end of `path` makes no sense."""
    if revision.kind == "base":
        raise InputError(f"Revision {revision.id} is the base, which stays: use `retcon rollback`.")
    if revision.id not in {step.id for step in path}:
        raise InputError(
            f"Revision {revision.id} is not on the way to {path[-1].id}, so it cannot be taken out: "
            "revert it on a revision that comes after it."
        )
    if revision.id in find_reverted(path):
        raise InputError(
            f"Revision {revision.id} is already taken out at {path[-1].id}: revert the revert to undo that."
        )


def list_revisions(session: Session, model: Model) -> list[Revision]:
    """All revisions of a model, oldest first; the base is first even if it was added after a history was imported."""
    query = select(Revision).where(Revision.model_id == model.id)
    edited = col(Revision.kind) != "base"
    return list(session.exec(query.order_by(edited, col(Revision.created), col(Revision.id))))


def list_head_moves(session: Session, model: Model) -> list[HeadMove]:
    """Where the head has been, oldest first."""
    query = select(HeadMove).where(HeadMove.model_id == model.id)
    return list(session.exec(query.order_by(col(HeadMove.id))))


def find_model(session: Session, name: str) -> Model:
    """The model of that name. NotFound names those there are, or says how to add one."""
    model = session.exec(select(Model).where(Model.name == name)).one_or_none()
    if model is None:
        known = session.exec(select(Model.name).order_by(col(Model.name))).all()
        hint = f"there are {', '.join(known)}." if known else "none yet; add one with `retcon model add`."
        raise NotFound(f"There is no model {name!r}: {hint}")
    return model


def find_revision(session: Session, model: Model, name: str) -> Revision:
    """`base`, `head`, an id, a unique prefix of one (3 characters at least), or any of these with `~N`.

    `~N` goes N parents back. NotFound names the candidates.
    """
    if back := _STEPS_BACK.fullmatch(name):
        revision = find_revision(session, model, back[1])
        steps = int(back[2] or 1)
        way = load_path(session, revision.id)
        if steps >= len(way):
            raise NotFound(
                f"{name} is before the base of {model.name}: {back[1]} has {len(way) - 1} before it."
            )
        return way[-1 - steps]
    every = list_revisions(session, model)
    if name == "head":
        found = [revision for revision in every if revision.id == model.head]
    elif name == "base":
        found = [revision for revision in every if revision.kind == "base"]
    elif len(name) < _SHORTEST_PREFIX:
        raise NotFound(
            f"{name!r} is too short for a revision of {model.name}; give {_SHORTEST_PREFIX} or more, "
            f"{_candidates(every)}."
        )
    else:
        found = [revision for revision in every if revision.id.startswith(name)]
    if not found:
        raise NotFound(f"{model.name} has no revision {name!r}: give {_candidates(every)}.")
    if len(found) > 1:
        raise NotFound(f"{name!r} could be several revisions of {model.name}: give {_candidates(found)}.")
    return found[0]


def _candidates(of: Sequence[Revision]) -> str:
    shown = ", ".join(f"{one.id} ({one.message or one.kind})" for one in of[-8:])
    return f"'head', 'base' or one of {shown}" if of else "`retcon model add` it first"


def public_source(model: Model) -> str:
    """A hub id as it is; of a place on this machine only its last part, which is nobody else's business."""
    return PurePath(model.source).name if model.source_kind in ("folder", "gguf") else model.source


def parse_target(target: str) -> tuple[str, str]:
    """`model@revision` in two; the revision is `head` if none is named. InputError if a part is empty."""
    name, at, revision = target.partition("@")
    if not name or (at and not revision):
        raise InputError(f"{target!r} names no model and revision: write MODEL or MODEL@REVISION.")
    return name, revision or "head"


def add_base(session: Session, model: Model, known: Revision | None = None) -> Revision:
    """Give a new model its base revision and its head. Flushes; the model needs no id before.

    A base that comes with its history is `known`: it keeps its id, message and age.
    """
    session.add(model)
    session.flush()
    base = Revision(
        id=known.id if known else "",
        model_id=_key(model),
        kind="base",
        fingerprint=model.fingerprint,
        message=known.message if known else f"{model.source} as it came",
        created=known.created if known else model.created,
    )
    commit_revision(session, model, base, "add")
    return base


def commit_revision(session: Session, model: Model, revision: Revision, reason: str) -> None:
    """Add a revision and move the head to it. Flushes. It may have any parent: that makes a branch.

    An empty id is filled in from the content. Raises InputError for a revert that makes no sense, and
    CatalogError if the parent is another model's.
    """
    if revision.parent is not None:
        way = load_path(session, revision.parent)
        if way[-1].model_id != model.id:
            raise CatalogError(f"Revision {revision.parent} is not one of {model.name}: nothing was added.")
        if revision.reverts is not None:
            check_revert(way, load_path(session, revision.reverts)[-1])
    revision.model_id = _key(model)
    revision.id = revision.id or id_of(model, revision)
    session.add(revision)
    session.flush()
    move_head(session, model, revision, reason)


def move_head(session: Session, model: Model, revision: Revision, reason: str) -> None:
    """Set the head and write down the move; for `reason` see the table. Flushes."""
    if revision.model_id != model.id:
        raise CatalogError(f"Revision {revision.id} is not one of {model.name}: its head was not moved.")
    session.add(model)
    session.flush()
    # The caller may have read the model some hours ago, before an edit of another process.
    session.refresh(model, ["head"])
    session.add(
        HeadMove(model_id=_key(model), from_revision=model.head, to_revision=revision.id, reason=reason)
    )
    model.head = revision.id
    session.flush()


def _key(model: Model) -> int:
    if model.id is None:
        raise CatalogError(f"The model {model.name} was not saved before its history: flush it first.")
    return model.id
