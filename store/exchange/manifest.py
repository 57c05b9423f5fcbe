"""The history that an export carries: `retcon.json`, from which another catalog recreates the same revisions.

    {"format": "retcon", "version": 1, "tool", "kind", "revision", "fingerprint",
     "base": {"name", "source", "source_kind", "commit", "architecture", "dtype", "fingerprint", "files"},
     "steps": [..], "evaluations": [..], "files": {name: {"sha256", "size"}}}

`steps` are the revisions from the base to the exported one, base first. The delta of each edit is the file
`deltas/SHA256.safetensors` beside the manifest. `files` are all files of the export except the manifest and the card.
A manifest may come from an untrusted source: names, digests and the tree are checked before anything uses them.
"""

import json
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from sqlmodel import Session, col, select

from ..catalog.artifacts import sha256_of
from ..catalog.tables import Covariance, Evaluation, Model, Revision
from ..errors import InputError
from ..history import history
from ..history.lineage import find_reverted
from ..validation import (
    Count,
    Digest,
    Integer,
    Request,
    RevisionId,
    Time,
    describe,
    rename_fields,
    rename_requests,
)

MANIFEST = "retcon.json"
CARD = "README.md"
DELTAS = "deltas"
# The base's own matrices that the edits change, for a base that nobody else can download.
BASE_MATRICES = f"{DELTAS}/base.safetensors"
EXPORT_KINDS = ("checkpoint", "adapter", "delta")
_FORMAT, _VERSION = "retcon", 1
_MAX_BYTES = 256 * 2**20
# Names of fields in manifests of earlier versions.
_MANIFEST_NAMES = {"what": "kind"}
_STEP_NAMES = {"figures": "statistics"}


def check_name(name: str) -> str:
    """Reject a name that could lead out of the export's folder. Raises ValueError."""
    path = PurePosixPath(name)
    is_unsafe = "\\" in name or "\0" in name or ":" in name or not name.isprintable()
    if is_unsafe or path.is_absolute() or ".." in path.parts or str(path) != name or len(path.parts) > 2:
        raise ValueError(f"{name[:100]!r} is not a valid name of a file in the export")
    return name


@dataclass(frozen=True)
class File:
    """A file of an export."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    sha256: Digest
    size: Count


@dataclass(frozen=True)
class Base:
    """The model that the edits apply to; `files` are its weight files."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    name: str
    source: str
    source_kind: str
    commit: str | None
    architecture: str
    dtype: str
    fingerprint: Digest
    files: dict[str, File] = field(default_factory=dict)

    @property
    def reachable(self) -> bool:
        """Whether anybody can get these weights: from the Hub at a commit, or from the starter's package."""
        return self.source_kind in ("hub", "starter")


@dataclass(frozen=True)
class Step:
    """One revision, without the references that only its own catalog can resolve."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    id: RevisionId
    parent: str | None
    kind: Annotated[str, Field(pattern="^(base|edit|revert)$")]
    reverts: str | None
    method: str | None
    hparams: dict[str, Any]
    seed: Integer | None
    contexts: list[str]
    requests: list[Request]
    covariances: list[dict[str, Any]]
    delta: Digest | None
    statistics: dict[str, Any]
    message: str
    fingerprint: Digest
    created: Time

    @property
    def delta_file(self) -> str | None:
        """The file of the delta, relative to the export's folder."""
        return f"{DELTAS}/{self.delta}.safetensors" if self.delta else None

    def to_revision(self) -> Revision:
        """An unsaved row; its model, parent and covariances are those of another catalog."""
        created = datetime.fromisoformat(self.created)
        statistics = self.statistics | {"covariances": self.covariances}
        own = {"model_id": 0, "covariances": [], "statistics": statistics, "created": created}
        return Revision(**asdict(self) | own)


@dataclass(frozen=True)
class Manifest:
    """The history of an exported revision, and the files of the export."""

    kind: Annotated[str, Field(pattern=f"^({'|'.join(EXPORT_KINDS)})$")]
    tool: str
    revision: str
    fingerprint: Digest
    base: Base
    steps: list[Step]
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    files: dict[Annotated[str, AfterValidator(check_name)], File] = field(default_factory=dict)

    @property
    def live_steps(self) -> list[Step]:
        """The edits that make up the weights, in order."""
        return [step for step in self.steps if step.kind == "edit" and step.id not in self.reverted]

    @property
    def reverted(self) -> set[str]:
        """The ids of the reverted steps."""
        return find_reverted(self.steps)

    def as_text(self) -> str:
        """The manifest as JSON."""
        record = {"format": _FORMAT, "version": _VERSION} | asdict(self)
        return json.dumps(record, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str, where: str) -> Self:
        """Read a manifest; `where` names its file. Raises InputError for invalid content."""
        try:
            record = json.loads(text)
            if record["format"] != _FORMAT or record["version"] != _VERSION:
                raise InputError(
                    f"{where} is a manifest of another version ({record['version']}); this program reads version "
                    f"{_VERSION}"
                )
            json.dumps(record, ensure_ascii=False).encode()  # half of a surrogate pair cannot be stored
            manifest = TypeAdapter(cls).validate_python(_rename(record))
            _check_steps(manifest)
        except ValidationError as error:
            raise InputError(f"{where} is not a valid manifest of retcon: {describe(error)}") from error
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{where} is not a valid manifest of retcon ({error!r})") from error
        return manifest


def _rename(record: dict[str, Any]) -> dict[str, Any]:
    """A manifest under the current names of its fields."""
    steps = [rename_fields(step, _STEP_NAMES) for step in record["steps"]]
    for step in steps:
        step["requests"] = rename_requests(step["requests"])
    return rename_fields(record, _MANIFEST_NAMES) | {"steps": steps}


def _check_steps(manifest: Manifest) -> None:
    """Raise ValueError unless the steps are one valid path from the base to the revision."""
    steps = manifest.steps
    if not steps or steps[0].kind != "base" or steps[-1].id != manifest.revision:
        raise ValueError("its steps do not lead from the base to its revision")
    before: str | None = None
    earlier: set[str] = set()
    for step in steps:
        if step.parent != before:
            raise ValueError(f"step {step.id} does not follow {before!r}")
        if (step.kind == "edit") != (step.delta is not None):
            raise ValueError(f"step {step.id} must have a delta if it is an edit, otherwise none")
        if (step.kind == "revert") != (step.reverts is not None) or step.reverts not in {None, *earlier}:
            raise ValueError(f"step {step.id} must revert an earlier step if it is a revert, otherwise none")
        if step.id in earlier or (before is not None and step.id == steps[0].id):
            raise ValueError(f"step {step.id} occurs twice")
        if step.kind != "base":
            earlier.add(step.id)
        before = step.id


def build_manifest(
    session: Session, model: Model, revision: Revision, kind: str, tool: str, base_files: dict[str, File]
) -> Manifest:
    """The manifest of an export of `revision`, without the export's files."""
    source = history.public_source(model)
    path = history.load_path(session, revision.id)
    steps = [_step(session, step) for step in path]
    # The message of the base names its source, which may be a folder of this machine.
    steps[0] = replace(steps[0], message=path[0].message.replace(model.source, source))
    query = select(Evaluation).where(col(Evaluation.revision).in_([step.id for step in path]))
    evaluations = [_evaluation(row) for row in session.exec(query.order_by(col(Evaluation.id)))]
    base = Base(
        model.name, source, model.source_kind, model.commit, model.architecture, model.dtype, model.fingerprint,
        base_files,
    )  # fmt: skip
    return Manifest(kind, tool, revision.id, revision.fingerprint, base, steps, evaluations)


def _step(session: Session, revision: Revision) -> Step:
    statistics = dict(revision.statistics)
    # A recovered revision carries descriptions of its covariances; their rows are in another catalog.
    described = statistics.pop("covariances", [])
    rows = [session.get(Covariance, id) for id in revision.covariances]
    described = [_covariance(row) for row in rows if row is not None] or described
    own = {"covariances": described, "statistics": statistics, "created": revision.created.isoformat()}
    return Step(**revision.model_dump(exclude={"model_id"}) | own)


def _covariance(row: Covariance) -> dict[str, Any]:
    names = {"layer", "texts_revision", "tokens", "documents", "max_length", "seed"}
    return row.model_dump(include=names) | {"texts": _without_folder(row.texts), "sha256": row.artifact}


def _without_folder(text: Any) -> Any:
    """The last part of an absolute path: folders of this machine are private."""
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
    """The manifest in a folder, or None. Raises InputError for an invalid one."""
    path = folder / MANIFEST
    if not path.is_file():
        return None
    if path.stat().st_size > _MAX_BYTES:
        raise InputError(f"{path} is too large for a manifest")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    return Manifest.parse(text, str(path))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Hash every file that the manifest names. Raises InputError for the first one that is missing or corrupt."""
    # Compare with the listed names: a name in the manifest may be too long for a call of the file system.
    existing = set(_list_files(folder))
    for name, file in manifest.files.items():
        path = folder / name
        if name not in existing:
            raise InputError(f"{path} is missing; {MANIFEST} names it")
        size = path.stat().st_size
        if size != file.size:
            raise InputError(f"{path} is corrupt: it has {size} bytes, {MANIFEST} says {file.size}")
        digest = sha256_of(path)
        if digest != file.sha256:
            raise InputError(
                f"{path} is corrupt: its sha256 is {digest[:12]}.., {MANIFEST} says {file.sha256[:12]}... Download it "
                f"again, or remove {MANIFEST} to add the folder as a model without a history"
            )


def _list_files(folder: Path) -> list[str]:
    """The relative path of every file under a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def hash_files(folder: Path) -> dict[str, File]:
    """Every file of an export except its manifest and its card, by relative path."""
    names = [name for name in _list_files(folder) if name not in (MANIFEST, CARD)]
    return {name: File(sha256_of(folder / name), (folder / name).stat().st_size) for name in names}


def add_steps(session: Session, model: Model, manifest: Manifest) -> list[Revision]:
    """Add the manifest's revisions on top of the model's existing base and move the head to the last one. Flushes.

    A step keeps its id unless a revision of another model has it; then it gets a new id. Existing revisions of this
    model are not added again.
    """
    base = history.find_revision(session, model, "base")
    new_ids = {manifest.steps[0].id: base.id}
    revisions = [base]
    for step in manifest.steps[1:]:
        row = step.to_revision()
        row.model_id = base.model_id
        row.parent, row.reverts = new_ids[step.parent or ""], new_ids.get(step.reverts or "")
        existing = session.get(Revision, row.id)
        if existing is not None and existing.model_id != base.model_id:
            row.id = history.id_of(model, row)
            existing = session.get(Revision, row.id)
        if existing is not None and existing.fingerprint != row.fingerprint:
            raise InputError(f"{model.name} has a different revision {row.id}; import into a new model")
        if existing is None:
            history.commit_revision(session, model, row, "import")
        new_ids[step.id] = row.id
        revisions.append(existing or row)
    if model.head != revisions[-1].id:
        history.move_head(session, model, revisions[-1], "import")
    return revisions
