"""A model's history: a tree of revisions as in git, a head, and the moves of the head."""

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
_MIN_PREFIX = 3


def revision_id(**content: Any) -> str:
    """The first 10 hex digits of the sha256 of `content` as canonical JSON.

    `content` is the model's name and parent, kind, reverts, method, hparams, seed, requests, delta, message, created.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), default=_format_time)
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _format_time(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"a revision cannot contain a {type(value).__name__}")


def id_of(model: Model, revision: Revision) -> str:
    """The id of a revision, computed from its content."""
    names = {
        "parent",
        "kind",
        "reverts",
        "method",
        "hparams",
        "seed",
        "requests",
        "delta",
        "message",
        "created",
    }
    return revision_id(model=model.name, **revision.model_dump(include=names))


def load_path(session: Session, revision_id: str) -> list[Revision]:
    """The revision and its ancestors, base first. Raises NotFound if there is no such revision."""
    path: list[Revision] = []
    ids: set[str] = set()
    id: str | None = revision_id
    while id is not None:
        revision = session.get(Revision, id)
        if revision is None:
            raise NotFound(f"There is no revision {id}: `retcon history MODEL` lists a model's revisions.")
        if id in ids:
            raise CatalogError(f"The history of revision {revision_id} contains a cycle: restore a backup.")
        ids.add(id)
        path.append(revision)
        id = revision.parent
    return path[::-1]


def parents_first(revisions: Sequence[Revision]) -> list[Revision]:
    """The revisions that descend from a base, each after its parent."""
    children: dict[str | None, list[Revision]] = {}
    for row in revisions:
        children.setdefault(row.parent, []).append(row)
    found = list(children[None])
    for row in found:  # the list grows during the iteration
        found += children.get(row.id, [])
    return found


def live_edits(path: Sequence[Revision]) -> list[Revision]:
    """The edits whose deltas make up the weights at the end of the path, in order.

    An edit whose revert was reverted returns to its original position, so the weights are bit-identical again.
    """
    reverted = find_reverted(path)
    return [revision for revision in path if revision.kind == "edit" and revision.id not in reverted]


def dependent_edits(path: Sequence[Revision], revision: Revision) -> list[Revision]:
    """The later live edits that share a subject with `revision`: they build on it and may depend on it."""
    subjects = {request["subject"] for request in revision.requests}
    ids = [step.id for step in path]
    return [
        edit
        for edit in live_edits(path)
        if ids.index(edit.id) > ids.index(revision.id)
        and subjects & {request["subject"] for request in edit.requests}
    ]


def check_revert(path: Sequence[Revision], revision: Revision) -> None:
    """Raise InputError if `revision` cannot be reverted at the end of `path`."""
    if revision.kind == "base":
        raise InputError(f"Revision {revision.id} is the base and cannot be reverted: use `retcon rollback`.")
    if revision.id not in {step.id for step in path}:
        raise InputError(
            f"Revision {revision.id} is not an ancestor of {path[-1].id} and cannot be reverted there: "
            "revert it on one of its descendants."
        )
    if revision.id in find_reverted(path):
        raise InputError(
            f"Revision {revision.id} was already reverted by revision {path[-1].id}: revert the revert to restore it."
        )


def list_revisions(session: Session, model: Model) -> list[Revision]:
    """All revisions of a model, oldest first. The base comes first, also if imported edits are older."""
    query = select(Revision).where(Revision.model_id == model.id)
    is_edit = col(Revision.kind) != "base"
    return list(session.exec(query.order_by(is_edit, col(Revision.created), col(Revision.id))))


def list_head_moves(session: Session, model: Model) -> list[HeadMove]:
    """The moves of the head, oldest first."""
    query = select(HeadMove).where(HeadMove.model_id == model.id)
    return list(session.exec(query.order_by(col(HeadMove.id))))


def find_model(session: Session, name: str) -> Model:
    """The model of that name. NotFound lists the existing models, or the command that adds one."""
    model = session.exec(select(Model).where(Model.name == name)).one_or_none()
    if model is None:
        known = session.exec(select(Model.name).order_by(col(Model.name))).all()
        hint = f"existing models are {', '.join(known)}." if known else "add one with `retcon model add`."
        raise NotFound(f"There is no model {name!r}: {hint}")
    return model


def find_revision(session: Session, model: Model, name: str) -> Revision:
    """The revision with a name: `base`, `head`, an id, a unique prefix of at least 3 characters, each also with `~N`.

    `~N` is the N-th ancestor. NotFound lists the candidates.
    """
    if back := _STEPS_BACK.fullmatch(name):
        revision = find_revision(session, model, back[1])
        steps = int(back[2] or 1)
        path = load_path(session, revision.id)
        if steps >= len(path):
            raise NotFound(
                f"{name} is before the base of {model.name}: {back[1]} has {len(path) - 1} ancestors."
            )
        return path[-1 - steps]
    query = select(Revision).where(Revision.model_id == model.id)
    if name == "head":
        query = query.where(Revision.id == model.head)
    elif name == "base":
        query = query.where(Revision.kind == "base")
    elif len(name) < _MIN_PREFIX:
        raise NotFound(
            f"{name!r} is too short for a revision of {model.name}: give at least {_MIN_PREFIX} characters, "
            f"{_candidates(list_revisions(session, model))}."
        )
    else:
        # The primary key finds the ids that begin with `name`. "~" sorts after every character of an id.
        query = query.where(col(Revision.id) >= name, col(Revision.id) < name + "~")
    found = list(session.exec(query.order_by(col(Revision.created), col(Revision.id))))
    if not found:
        raise NotFound(
            f"{model.name} has no revision {name!r}: give {_candidates(list_revisions(session, model))}."
        )
    if len(found) > 1:
        raise NotFound(f"{name!r} is ambiguous for {model.name}: give {_candidates(found)}.")
    return found[0]


def _candidates(revisions: Sequence[Revision]) -> str:
    shown = ", ".join(f"{one.id} ({one.message or one.kind})" for one in revisions[-8:])
    return f"'head', 'base' or one of {shown}" if revisions else "no revision; run `retcon model add` first"


def public_source(model: Model) -> str:
    """The source of a model for publication: a Hub id, or the last part of a private path."""
    return PurePath(model.source).name if model.source_kind in ("folder", "gguf") else model.source


def parse_target(target: str) -> tuple[str, str]:
    """Split `model@revision`. The default revision is `head`. Raises InputError if a part is empty."""
    name, at, revision = target.partition("@")
    if not name or (at and not revision):
        raise InputError(f"{target!r} does not name a model and a revision: write MODEL or MODEL@REVISION.")
    return name, revision or "head"


def add_base(session: Session, model: Model, known: Revision | None = None) -> Revision:
    """Add a new model with its base revision as head. Flushes.

    `known` is the base of an imported history; the new base gets its id, message and time.
    """
    session.add(model)
    session.flush()
    base = Revision(
        id=known.id if known else "",
        model_id=_key(model),
        kind="base",
        fingerprint=model.fingerprint,
        message=known.message if known else f"base ({model.source})",
        created=known.created if known else model.created,
    )
    commit_revision(session, model, base, "add")
    return base


def commit_revision(session: Session, model: Model, revision: Revision, reason: str) -> None:
    """Add a revision and move the head to it. Flushes. A parent other than the head begins a branch.

    An empty id is computed from the content. Raises InputError for an impossible revert, CatalogError if the parent
    belongs to another model.
    """
    if revision.parent is not None:
        path = load_path(session, revision.parent)
        if path[-1].model_id != model.id:
            raise CatalogError(
                f"Revision {revision.parent} is not a revision of {model.name}: nothing was added."
            )
        if revision.reverts is not None:
            check_revert(path, load_path(session, revision.reverts)[-1])
    revision.model_id = _key(model)
    revision.id = revision.id or id_of(model, revision)
    session.add(revision)
    session.flush()
    move_head(session, model, revision, reason)


def move_head(session: Session, model: Model, revision: Revision, reason: str) -> None:
    """Set the head and record the move. Flushes. The table HeadMove lists the reasons."""
    if revision.model_id != model.id:
        raise CatalogError(
            f"Revision {revision.id} is not a revision of {model.name}: the head was not moved."
        )
    session.add(model)
    session.flush()
    # Another process may have moved the head since the caller read the model.
    session.refresh(model, ["head"])
    session.add(
        HeadMove(model_id=_key(model), from_revision=model.head, to_revision=revision.id, reason=reason)
    )
    model.head = revision.id
    session.flush()


def _key(model: Model) -> int:
    if model.id is None:
        raise CatalogError(f"The model {model.name} has no id: save it before its history.")
    return model.id
