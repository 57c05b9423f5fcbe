"""What an export carries of its history: `retcon.json`, from which another catalog can make the same revisions.

    {"format": "retcon", "version": 1, "tool", "what", "revision", "fingerprint",
     "base": {"name", "source", "source_kind", "commit", "architecture", "dtype", "fingerprint", "files"},
     "steps": [..], "evaluations": [..], "files": {name: {"sha256", "size"}}}

`steps` are the revisions from the base to the exported one, base first; the delta of each edit lies beside the
manifest as `deltas/SHA256.safetensors`. `files` are all files of the export but the manifest and the card.
Whatever is read here may come from a stranger: names, digests and the tree are checked before anything uses them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from sqlmodel import Session, col, select

from ..catalog.artifacts import sha256_of
from ..catalog.tables import Covariance, Evaluation, Model, Revision
from ..errors import InputError
from ..history import history
from ..history.lineage import find_reverted

MANIFEST = "retcon.json"
CARD = "README.md"
DELTAS = "deltas"
# The base's own matrices that the edits rewrite, where nobody else could get the base.
BASE_MATRICES = f"{DELTAS}/base.safetensors"
EXPORT_KINDS = ("checkpoint", "adapter", "delta")
_FORMAT, _VERSION = "retcon", 1
_DIGEST = re.compile(r"[0-9a-f]{64}")
_ID = re.compile(r"[0-9a-f]{10}")
_MOST_BYTES = 256 * 2**20
# The largest number that SQLite holds.
_LARGEST = 2**63 - 1


@dataclass(frozen=True)
class File:
    """A file of an export."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Base:
    """The model that the edits were made on; `files` are its weight files with their digests."""

    name: str
    source: str
    source_kind: str
    commit: str | None
    architecture: str
    dtype: str
    fingerprint: str
    files: dict[str, File] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        """Whether anybody can get these weights: from the hub at a commit, or out of the starter's package."""
        return self.source_kind in ("hub", "starter")


@dataclass(frozen=True)
class Step:
    """One revision, without what only its own catalog can use."""

    id: str
    parent: str | None
    kind: str
    reverts: str | None
    method: str | None
    hparams: dict[str, Any]
    seed: int | None
    contexts: list[str]
    requests: list[dict[str, Any]]
    covariances: list[dict[str, Any]]
    delta: str | None
    statistics: dict[str, Any]
    message: str
    fingerprint: str
    created: str

    @property
    def delta_file(self) -> str | None:
        return f"{DELTAS}/{self.delta}.safetensors" if self.delta else None


@dataclass(frozen=True)
class Manifest:
    """The history of an exported revision and the files that it was exported as."""

    what: str
    tool: str
    revision: str
    fingerprint: str
    base: Base
    steps: list[Step]
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, File] = field(default_factory=dict)

    @property
    def live_steps(self) -> list[Step]:
        """The edits that make up the weights, in order."""
        return [step for step in self.steps if step.kind == "edit" and step.id not in self.reverted]

    @property
    def reverted(self) -> set[str]:
        """The ids of the steps that a revert took out."""
        return find_reverted([row_of(step) for step in self.steps])

    def as_text(self) -> str:
        record = {"format": _FORMAT, "version": _VERSION} | asdict(self)
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Raises InputError: it is no manifest, or it holds what no manifest of this program would."""
        try:
            record = json.loads(text)
            if record["format"] != _FORMAT or record["version"] != _VERSION:
                raise InputError(
                    f"{where} is a manifest of another version ({record['version']}); this program reads version "
                    f"{_VERSION}"
                )
            json.dumps(record, ensure_ascii=False).encode()  # half a character cannot be stored
            base = Base(**record["base"] | {"files": _files(record["base"]["files"])})
            made = cls(
                record["what"], record["tool"], record["revision"], record["fingerprint"], base,
                [Step(**_renamed(step)) for step in record["steps"]], record["evaluations"], _files(record["files"]),
            )  # fmt: skip
            for part in (made, made.base, *made.steps, *made.base.files.values(), *made.files.values()):
                _check_types(part)
            made._check()
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{where} is no manifest of retcon ({error!r})") from error
        return made

    def _check(self) -> None:
        """Raises ValueError."""
        if self.what not in EXPORT_KINDS:
            raise ValueError(f"unknown kind {self.what!r}")
        digests = [self.fingerprint, self.base.fingerprint, *(step.fingerprint for step in self.steps)]
        digests += [file.sha256 for file in (*self.files.values(), *self.base.files.values())]
        digests += [step.delta for step in self.steps if step.delta is not None]
        if bad := [digest for digest in digests if not _DIGEST.fullmatch(digest)]:
            raise ValueError(f"{bad[0]!r} is no sha256")
        if not self.steps or self.steps[0].kind != "base" or self.steps[-1].id != self.revision:
            raise ValueError("its steps do not lead from the base to its revision")
        before: str | None = None
        changes: set[str] = set()
        for step in self.steps:
            if (
                not _ID.fullmatch(step.id)
                or step.parent != before
                or step.kind not in ("base", "edit", "revert")
            ):
                raise ValueError(f"step {step.id!r} does not follow {before!r}")
            if (step.kind == "edit") != (step.delta is not None):
                raise ValueError(f"step {step.id} lacks its delta, or has one too many")
            if (step.kind == "revert") != (step.reverts is not None) or step.reverts not in {None, *changes}:
                raise ValueError(f"step {step.id} does not revert a step before it, or should not")
            if step.id in changes or (before is not None and step.id == self.steps[0].id):
                raise ValueError(f"step {step.id} is there twice")
            for request in step.requests:
                if not is_request(request):
                    raise ValueError(f"step {step.id} has a request of another form")
            if datetime.fromisoformat(step.created).tzinfo is None:
                raise ValueError(f"the time of step {step.id} has no zone")
            if step.kind != "base":
                changes.add(step.id)
            before = step.id
        for name in self.files:
            check_name(name)


# Names of fields in manifests of earlier versions.
_STEP_NAMES = {"figures": "statistics"}
_REQUEST_NAMES = {"wordings": "train_paraphrases", "paraphrases": "eval_paraphrases"}


def _renamed(step: dict[str, Any]) -> dict[str, Any]:
    """A step under the current names of its fields."""
    found = {_STEP_NAMES.get(name, name): value for name, value in step.items()}
    found["requests"] = [
        {_REQUEST_NAMES.get(name, name): value for name, value in request.items()}
        for request in found["requests"]
    ]
    return found


def is_request(found: Any) -> bool:
    """Whether this is what a revision keeps of a fact that it wrote, as far as it is read again."""
    return (
        isinstance(found, dict)
        and all(isinstance(found.get(name), str) for name in ("subject", "prompt", "target_new"))
        and isinstance(found.get("target_true"), str | None)
    )


def _check_types(part: Any) -> None:
    """Data classes take anything; what was read from a file must be as they say. Raises ValueError."""
    for name, hint in get_type_hints(type(part)).items():
        value = getattr(part, name)
        kinds = tuple(
            get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else [hint])
        )
        inner = get_args(hint)[-1:] if list in kinds else ()
        right = isinstance(value, kinds) and not isinstance(value, bool)
        right = right and (
            not inner or all(isinstance(one, get_origin(inner[0]) or inner[0]) for one in value)
        )
        if not right or (isinstance(value, int) and abs(value) > _LARGEST):
            raise ValueError(f"{name} is {str(value)[:100]!r}, which it cannot be")


def _files(record: Mapping[str, Any]) -> dict[str, File]:
    return {name: File(**file) for name, file in record.items()}


def check_name(name: str) -> None:
    """Refuse a name that could lead out of the export's folder. Raises ValueError."""
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or ":" in name or not name.isprintable()
    if odd or path.is_absolute() or ".." in path.parts or str(path) != name or len(path.parts) > 2:
        raise ValueError(f"{name!r} is no name of a file in the export")


def build_manifest(
    session: Session, model: Model, revision: Revision, what: str, tool: str, base_files: dict[str, File]
) -> Manifest:
    """What an export of `revision` carries, without its files. An older history that was itself recovered goes on."""
    way = history.load_path(session, revision.id)
    base = Base(
        model.name, history.public_source(model), model.source_kind, model.commit, model.architecture, model.dtype,
        model.fingerprint, base_files,
    )  # fmt: skip
    query = select(Evaluation).where(col(Evaluation.revision).in_([step.id for step in way]))
    evaluations = session.exec(query.order_by(col(Evaluation.id))).all()
    return Manifest(
        what,
        tool,
        revision.id,
        revision.fingerprint,
        base,
        [_base_step(session, model, way[0]), *(_step(session, step) for step in way[1:])],
        [_evaluation(one) for one in evaluations],
    )


def _base_step(session: Session, model: Model, revision: Revision) -> Step:
    """The base; its message tells the source, which may be a folder here."""
    return replace(
        _step(session, revision), message=revision.message.replace(model.source, history.public_source(model))
    )


def _step(session: Session, revision: Revision) -> Step:
    figures = dict(revision.statistics)
    # Of a recovered revision its own catalog's rows are not here; their description came with it.
    described = figures.pop("covariances", [])
    rows = [session.get(Covariance, id) for id in revision.covariances]
    described = [_covariance(row) for row in rows if row is not None] or described
    return Step(
        revision.id, revision.parent, revision.kind, revision.reverts, revision.method, revision.hparams,
        revision.seed, revision.contexts, revision.requests, described, revision.delta, figures,
        revision.message, revision.fingerprint, revision.created.isoformat(),
    )  # fmt: skip


def _covariance(row: Covariance) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "texts": _without_folder(row.texts),
        "texts_revision": row.texts_revision,
        "tokens": row.tokens,
        "documents": row.documents,
        "max_length": row.max_length,
        "seed": row.seed,
        "sha256": row.artifact,
    }


def _without_folder(text: Any) -> Any:
    """A file of this machine by its last name alone."""
    return Path(text).name if isinstance(text, str) and text.startswith("/") else text


def _evaluation(row: Evaluation) -> dict[str, Any]:
    return {
        "revision": row.revision,
        "created": row.created.isoformat(),
        "protocol": {name: _without_folder(value) for name, value in row.protocol.items()},
        "metrics": row.metrics,
        "retention": row.retention,
    }


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if it has none.

    Raises:
        InputError: it is broken.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    if path.stat().st_size > _MOST_BYTES:
        raise InputError(f"{path} is too large for a manifest")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return Manifest.parse(text, str(path))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Hash every file that the manifest names.

    Raises:
        InputError: naming the first that is missing or is not what it was.
    """
    # A name may be too long to ask the file system for.
    here = set(_names(folder))
    for name, file in manifest.files.items():
        path = folder / name
        if name not in here:
            raise InputError(f"{path} is missing; {MANIFEST} names it")
        size = path.stat().st_size
        if size != file.size:
            raise InputError(f"{path} is damaged: it has {size} bytes, {MANIFEST} says {file.size}")
        found = sha256_of(path)
        if found != file.sha256:
            raise InputError(
                f"{path} is damaged: its sha256 is {found[:12]}.., {MANIFEST} says {file.sha256[:12]}..; get it again, "
                f"or remove {MANIFEST} to take the folder as a model without a history"
            )


def _names(folder: Path) -> list[str]:
    """The path of every file under a folder, from there."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def files_of(folder: Path) -> dict[str, File]:
    """Every file of an export but its manifest and its card, by its path in the folder."""
    kept = [name for name in _names(folder) if name not in (MANIFEST, CARD)]
    return {name: File(sha256_of(folder / name), (folder / name).stat().st_size) for name in kept}


def add_steps(session: Session, model: Model, manifest: Manifest) -> list[Revision]:
    """Put the manifest's revisions on a model's base, and the head on the last. Flushes. The base is there already.

    A step keeps its id unless another model's revision has it; then it gets one of its own. A revision that this model
    has already is not made twice.
    """
    base = history.find_revision(session, model, "base")
    place = {manifest.steps[0].id: base.id}
    found = [base]
    for step in manifest.steps[1:]:
        row = row_of(step)
        row.model_id = base.model_id
        row.parent, row.reverts = place[step.parent or ""], place.get(step.reverts or "")
        there = session.get(Revision, row.id)
        if there is not None and there.model_id != base.model_id:
            row.id = history.id_of(model, row)
            there = session.get(Revision, row.id)
        if there is not None and there.fingerprint != row.fingerprint:
            raise InputError(f"{model.name} has another revision {row.id}; import into a model of its own")
        if there is None:
            history.commit_revision(session, model, row, "import")
        place[step.id] = row.id
        found.append(there or row)
    if model.head != found[-1].id:
        history.move_head(session, model, found[-1], "import")
    return found


def row_of(step: Step) -> Revision:
    """A step as a row of the catalog; its model, parent and covariances are another catalog's."""
    return Revision(
        id=step.id, model_id=0, parent=step.parent, kind=step.kind, reverts=step.reverts, method=step.method,
        hparams=step.hparams, seed=step.seed, contexts=step.contexts, requests=step.requests, covariances=[],
        delta=step.delta, statistics=step.statistics | {"covariances": step.covariances}, message=step.message,
        fingerprint=step.fingerprint, created=datetime.fromisoformat(step.created),
    )  # fmt: skip
