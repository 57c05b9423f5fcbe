"""The tables of the catalog.

A table class of SQLModel does not validate its values: check user input before building a row. Datetimes are aware and
in UTC. SQLAlchemy does not see in-place changes of a JSON column: assign a changed copy. Sizes are in bytes, times in
seconds.

No `from __future__ import annotations` here: SQLModel reads the annotations as objects.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Column, ForeignKey, Index, String, UniqueConstraint
from sqlmodel import Field, SQLModel

from ..states import JOB_STATES, STOPS

# Set before any table is defined: SQLite can only drop a constraint that has a name.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s", "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s", "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
}  # fmt: skip

# For tables whose ids people type: without it, SQLite reuses the id of a deleted last row.
IDS_NEVER_REUSED = {"sqlite_autoincrement": True}


def now() -> datetime:
    """The current time, aware, in UTC."""
    return datetime.now(UTC)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A CHECK that `column` holds one of `values`, or NULL if the column is nullable."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def json_dict() -> Any:
    """A JSON object, empty by default."""
    return Field(default_factory=dict, sa_type=JSON)


def json_list() -> Any:
    """A JSON list, empty by default."""
    return Field(default_factory=list, sa_type=JSON)


def child_of(target: str, **default: Any) -> Any:
    """The key of the parent row. Deleting the parent deletes this row."""
    return Field(foreign_key=target, ondelete="CASCADE", index=True, **default)


def optional_link(target: str) -> Any:
    """The key of a related row, or None. Deleting that row sets the key to None."""
    return Field(default=None, foreign_key=target, ondelete="SET NULL", index=True)


class Numbered(SQLModel):
    """Rows with a number as key."""

    id: int | None = Field(default=None, primary_key=True)


class Dated(SQLModel):
    """Rows with the time of their creation."""

    created: datetime = Field(default_factory=now, index=True)


class Measured(Numbered, Dated):
    """Results of a job on one revision of a model."""

    model_id: int = child_of("model.id")
    revision: str = Field(foreign_key="revision.id", index=True)


class Artifact(Dated, table=True):
    """A file in the artifact store, named by its digest."""

    sha256: str = Field(primary_key=True)
    size: int


class Model(Numbered, Dated, table=True):
    """An added model: the source of its weights, their digests, and its head revision."""

    __table_args__ = (one_of("source_kind", ("hub", "folder", "gguf", "starter")),)
    name: str = Field(unique=True)
    source: str
    source_kind: str
    commit: str | None = None
    path: str
    architecture: str
    dtype: str
    parameters: int
    size: int
    anatomy: dict[str, Any] = json_dict()
    fingerprint: str
    tensors: dict[str, str] = json_dict()
    trust_remote_code: bool = False
    # `model` and `revision` refer to each other: use_alter adds this key after both tables.
    head: str | None = Field(
        default=None,
        sa_column=Column(String, ForeignKey("revision.id", name="fk_model_head_revision", use_alter=True)),
    )


class Revision(Dated, table=True):
    """One state of a model: the base, an edit on top of its parent, or the revert of an earlier edit."""

    __table_args__ = (
        one_of("kind", ("base", "edit", "revert")),
        CheckConstraint("(kind = 'base') = (parent IS NULL)", name="parent"),
        CheckConstraint("(kind = 'revert') = (reverts IS NOT NULL)", name="reverts"),
    )
    # If empty, history.commit_revision computes it from the content.
    id: str = Field(default="", primary_key=True)
    model_id: int = child_of("model.id")
    parent: str | None = Field(default=None, foreign_key="revision.id", index=True)
    kind: str
    reverts: str | None = Field(default=None, foreign_key="revision.id", index=True)
    method: str | None = None
    hparams: dict[str, Any] = json_dict()
    seed: int | None = None
    contexts: list[str] = json_list()
    requests: list[dict[str, Any]] = json_list()
    covariances: list[int] = json_list()
    delta: str | None = Field(default=None, foreign_key="artifact.sha256", index=True)
    # Losses, ranks and norms of the delta, scores before and after.
    statistics: dict[str, Any] = json_dict()
    message: str = ""
    fingerprint: str


class HeadMove(Numbered, Dated, table=True):
    """One move of a model's head. Undo and redo read these rows."""

    __tablename__ = "head_move"
    __table_args__ = (one_of("reason", ("add", "edit", "rollback", "revert", "import", "undo", "redo")),)
    model_id: int = child_of("model.id")
    from_revision: str | None = Field(default=None, foreign_key="revision.id", index=True)
    to_revision: str = Field(foreign_key="revision.id", index=True)
    reason: str


class FactSet(Numbered, Dated, table=True):
    """A named list of facts, imported from a file or typed in."""

    __tablename__ = "fact_set"

    name: str = Field(unique=True)
    source: str
    format: str


class Fact(Numbered, table=True):
    """One fact: a prompt template with exactly one `{}`, its subject, and its targets without a leading space."""

    __table_args__ = (UniqueConstraint("fact_set_id", "position"),)
    fact_set_id: int = child_of("fact_set.id", default=0)
    position: int = 0
    subject: str
    prompt: str
    target_true: str | None = None
    target_new: str | None = None
    # Templates with one `{}`, continued by the new target. Methods that train use them.
    train_paraphrases: list[str] = json_list()
    # Whole prompts that contain the subject, for evaluation only.
    eval_paraphrases: list[str] = json_list()
    # Prompts about other subjects, {"prompt", "true"}; the answer `true` must not change.
    neighbors: list[dict[str, Any]] = json_list()
    # Whole prompts that negate the fact. If empty, a rule builds them.
    negations: list[str] = json_list()
    # Multi-hop questions whose answer the fact changes, {"prompt", "answers"}.
    portability: list[dict[str, Any]] = json_list()
    # Whole prompts for the generation of longer texts.
    generation_prompts: list[str] = json_list()
    # Texts about subjects that have the new target, {"name", "text"}.
    references: list[dict[str, Any]] = json_list()
    # Remaining fields of the imported record: case_id, known_id, relation_id, ...
    origin: dict[str, Any] = json_dict()


class Trace(Measured, table=True):
    """A causal trace of one revision over some facts; its results are rows of TraceResult."""

    __table_args__ = (one_of("tokens", ("all", "subject-last")), IDS_NEVER_REUSED)
    fact_set_id: int | None = optional_link("fact_set.id")
    kinds: list[str] = json_list()
    # The noise rule, "3s" or "0.4"; noise_level is the resulting standard deviation.
    noise: str
    noise_level: float | None = None
    # Whether the noise replaces the subject's embeddings; otherwise it is added to them.
    replace: bool = False
    # The subject that the prompt is corrupted with instead of noise; "auto" is another subject of the set.
    swap: str | None = None
    samples: int
    window: int
    seed: int
    tokens: str = "all"
    protocol: dict[str, Any] = json_dict()


class TraceResult(Numbered, table=True):
    """One traced prompt: scores[kind] = {"window": int, "scores": T rows of L}, null where not traced."""

    __tablename__ = "trace_result"
    __table_args__ = (UniqueConstraint("trace_id", "position"),)
    trace_id: int = child_of("trace.id")
    position: int
    prompt: str
    subject: str
    tokens: list[str] = json_list()
    token_ids: list[int] = json_list()
    # The subject's token range, end excluded. Empty, like the answer, if the fact was skipped.
    subject_begin: int = 0
    subject_end: int = 0
    answer: str = ""
    expected: str | None = None
    # Probability of the answer in the clean run and in the corrupted run.
    high: float | None = None
    low: float | None = None
    scores: dict[str, Any] = json_dict()
    # estimate[kind] = T rows of L: attributions, until the exact scores replace them.
    estimate: dict[str, Any] = json_dict()
    # Whether all requested scores exist. A resumed job traces the facts that are not complete again.
    is_complete: bool = True
    # Why this fact was not traced; None if it was traced.
    skip_reason: str | None = None


class AverageEffect(Numbered, table=True):
    """The mean effect over a trace's facts at one (kind, token role, layer), with its interval."""

    __tablename__ = "average_effect"
    __table_args__ = (UniqueConstraint("trace_id", "kind", "role", "layer"),)
    trace_id: int = child_of("trace.id")
    kind: str
    role: str
    layer: int
    mean: float
    low: float
    high: float
    count: int


class Covariance(Numbered, Dated, table=True):
    """The second moment E[k k^T] of one layer's keys and all settings that determine it; the sums are an artifact."""

    __table_args__ = (Index(None, "model_id", "layer"), IDS_NEVER_REUSED)
    model_id: int = child_of("model.id")
    layer: int
    module: str
    width: int
    # Of the base's weights, and of the tokenizer; None if an imported file does not name its tokenizer.
    fingerprint: str
    tokenizer: str | None = None
    texts: str
    # The data set's commit on the Hub, or the sha256 of the file.
    texts_revision: str
    seed: int | None = None
    tokens: int
    documents: int | None = None
    max_length: int | None = None
    dtype: str
    # Convergence, {"tokens", "mean", "largest"}: cosine distance of C^-1 k to its value at half the tokens.
    curve: list[dict[str, Any]] = json_list()
    # {} if collected here, {"extends": id}, or {"imported": file, "sha256", "format", ..}.
    origin: dict[str, Any] = json_dict()
    artifact: str = Field(foreign_key="artifact.sha256", index=True)


class Sweep(Measured, table=True):
    """The same requests written with many settings, one trial after another; no edit is kept. See SweepTrial."""

    __table_args__ = IDS_NEVER_REUSED
    fact_set_id: int | None = optional_link("fact_set.id")
    # The trace whose effects are drawn beside the scores.
    trace_id: int | None = optional_link("trace.id")
    method: str
    # The settings that every trial starts from.
    hparams: dict[str, Any] = json_dict()
    requests: list[dict[str, Any]] = json_list()
    covariances: list[int] = json_list()
    seed: int
    trial_count: int
    protocol: dict[str, Any] = json_dict()


class SweepTrial(Numbered, table=True):
    """One finished trial: an edit of `layers` with `changes` to the sweep's settings, and its evaluation."""

    __tablename__ = "sweep_trial"
    __table_args__ = (UniqueConstraint("sweep_id", "position"),)
    sweep_id: int = child_of("sweep.id")
    position: int
    layers: list[int] = json_list()
    changes: dict[str, Any] = json_dict()
    # {"of", "value", "low", "high", "count"}
    score: dict[str, Any] = json_dict()
    metrics: dict[str, Any] = json_dict()
    seconds: float
    # Why the edit failed with these settings; None if it succeeded.
    error: str | None = None


class Evaluation(Measured, table=True):
    """The scores of one revision, with the protocol that produced them."""

    __table_args__ = IDS_NEVER_REUSED
    fact_set_id: int | None = optional_link("fact_set.id")
    protocol: dict[str, Any] = json_dict()
    metrics: dict[str, Any] = json_dict()
    cases: list[dict[str, Any]] = json_list()
    # {"edit", "requests", "first_choice", "free"}: how many requests of each earlier edit are retained.
    retention: list[dict[str, Any]] = json_list()


class Passage(Measured, table=True):
    """A text written fact by fact, its proof, and the answers of the baselines. Stages not yet run are empty."""

    __table_args__ = IDS_NEVER_REUSED
    # The edits that write it, on top of `revision`.
    revisions: list[str] = json_list()
    title: str
    text: str = ""
    method: str
    facts: list[dict[str, Any]] = json_list()
    questions: list[dict[str, Any]] = json_list()
    problems: list[dict[str, Any]] = json_list()
    stages: list[dict[str, Any]] = json_list()
    proof: dict[str, Any] = json_dict()
    answers: list[dict[str, Any]] = json_list()


class Job(Numbered, Dated, table=True):
    """A job and the process that runs it. `store.jobs` describes which process may write which columns."""

    __table_args__ = (
        one_of("state", JOB_STATES),
        one_of("error_kind", ("input", "failure")),
        one_of("stop_request", STOPS),
        IDS_NEVER_REUSED,
    )
    kind: str = Field(index=True)
    spec: dict[str, Any] = json_dict()
    state: str = Field(default="queued", index=True)
    priority: int = 0
    device: str
    pid: int | None = None
    # The token of the process that claimed the job; each later write compares it.
    owner: str | None = None
    attempt: int = 0
    done: float = 0
    total: float | None = None
    unit: str = ""
    rate: float | None = None
    # The phase of the job, and its changing detail.
    activity: str = ""
    detail: str = ""
    # Bytes that the process holds: GPU memory on a GPU, otherwise resident memory.
    memory: int | None = None
    seconds_left: float | None = None
    # For a job on a cluster, by node id: host, state, workers, done, unit, rate.
    nodes: dict[str, Any] = json_dict()
    heartbeat: datetime | None = None
    # "cancel" or "pause", requested by a user while the job was alive.
    stop_request: str | None = None
    error: str | None = None
    error_kind: str | None = None
    result: dict[str, Any] = json_dict()
    checkpoint: dict[str, Any] = json_dict()
    started: datetime | None = None
    ended: datetime | None = None


class Publication(Numbered, Dated, table=True):
    """One push of a revision to the Hub."""

    __table_args__ = (one_of("kind", ("checkpoint", "adapter")),)
    revision: str = child_of("revision.id")
    repo: str
    commit: str
    kind: str
    url: str
    account: str
    # The Hub tag of the commit, `edit/REVISION`; None if an earlier commit has that tag.
    tag: str | None = None
    # When it was removed from the Hub; None while it is public there.
    unpublished: datetime | None = None


class AppVersion(Numbered, Dated, table=True):
    """Which program version ran which migration. An older program names it in its error message."""

    __tablename__ = "app_version"

    migration: str
    version: str
