"""The tables of the catalog.

A table class of SQLModel validates nothing when it is built: what comes from a user is checked before it
gets here. Datetimes are aware and in UTC. A JSON column is saved when it is *assigned*: change a copy and
assign that, for an in-place change is not seen. Sizes are bytes, times are seconds.

No `from __future__ import annotations` here: SQLModel reads the annotations as objects.
"""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, CheckConstraint, Column, ForeignKey, Index, String, UniqueConstraint
from sqlmodel import Field, SQLModel

from ..states import JOB_STATES, STOPS

# Before any table: SQLite can only drop a constraint that has a name, and every later migration may need to.
SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}

# For tables whose ids people type: SQLite would give the id of a removed last row to the next one.
IDS_NEVER_REUSED = {"sqlite_autoincrement": True}


def now() -> datetime:
    """This moment, aware, in UTC."""
    return datetime.now(UTC)


def one_of(column: str, values: tuple[str, ...]) -> CheckConstraint:
    """A CHECK that `column` holds one of `values` (or NULL where the column may)."""
    return CheckConstraint(f"{column} IN ({', '.join(repr(value) for value in values)})", name=column)


def created_now() -> datetime:
    """When the row was made."""
    return Field(default_factory=now, index=True)


def json_dict() -> Any:
    """A JSON object, empty by default."""
    return Field(default_factory=dict, sa_type=JSON)


def json_list() -> Any:
    """A JSON list, empty by default."""
    return Field(default_factory=list, sa_type=JSON)


def child_of(target: str) -> Any:
    """The key of the row that this one is part of; it goes when that goes."""
    return Field(foreign_key=target, ondelete="CASCADE", index=True)


class Artifact(SQLModel, table=True):
    """A file in the artifact store, under its own digest."""

    sha256: str = Field(primary_key=True)
    size: int
    created: datetime = created_now()


class Model(SQLModel, table=True):
    """A model that was added: where its weights came from, what they were, and its head revision."""

    __table_args__ = (one_of("source_kind", ("hub", "folder", "gguf", "starter")),)

    id: int | None = Field(default=None, primary_key=True)
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
    # The two tables point at each other; use_alter only tells SQLAlchemy which of the two to make first.
    head: str | None = Field(
        default=None,
        sa_column=Column(
            "head",
            String,
            ForeignKey("revision.id", name="fk_model_head_revision", use_alter=True),
            nullable=True,
        ),
    )
    created: datetime = created_now()


class Revision(SQLModel, table=True):
    """One state of a model: the base, an edit on top of a parent, or an earlier revision taken out."""

    __table_args__ = (
        one_of("kind", ("base", "edit", "revert")),
        CheckConstraint("(kind = 'base') = (parent IS NULL)", name="parent"),
        CheckConstraint("(kind = 'revert') = (reverts IS NOT NULL)", name="reverts"),
    )

    # Given by history.commit_revision when it is left empty.
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
    statistics: dict[str, Any] = json_dict()
    message: str = ""
    fingerprint: str
    created: datetime = created_now()


class HeadMove(SQLModel, table=True):
    """One move of a model's head: the record from which a rollback can itself be taken back."""

    __tablename__ = "head_move"
    __table_args__ = (one_of("reason", ("add", "edit", "rollback", "revert", "import", "undo", "redo")),)

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = child_of("model.id")
    from_revision: str | None = Field(default=None, foreign_key="revision.id", index=True)
    to_revision: str = Field(foreign_key="revision.id", index=True)
    reason: str
    created: datetime = created_now()


class FactSet(SQLModel, table=True):
    """A named list of facts, as imported from one file or typed in."""

    __tablename__ = "fact_set"

    id: int | None = Field(default=None, primary_key=True)
    name: str = Field(unique=True)
    source: str
    format: str
    created: datetime = created_now()


class Fact(SQLModel, table=True):
    """One fact: a prompt template with exactly one `{}`, its subject, and its objects (no leading space)."""

    __table_args__ = (UniqueConstraint("fact_set_id", "position"),)

    id: int | None = Field(default=None, primary_key=True)
    fact_set_id: int = child_of("fact_set.id")
    position: int
    subject: str
    prompt: str
    target_true: str | None = None
    target_new: str | None = None
    # Templates with one `{}` that the new target continues as it continues the prompt: to be trained on.
    train_paraphrases: list[str] = json_list()
    # Whole prompts, with the subject in them: only ever asked.
    eval_paraphrases: list[str] = json_list()
    # {"prompt", "true"}: prompts about other subjects, and the answer that must not change.
    neighbors: list[dict[str, Any]] = json_list()
    # Whole prompts that deny the fact, where the rule for negations would not do.
    negations: list[str] = json_list()
    # {"prompt", "answers"}: multi-hop questions whose answer the fact changes.
    portability: list[dict[str, Any]] = json_list()
    # Whole prompts that a longer text is written from.
    generation_prompts: list[str] = json_list()
    # {"name", "text"}: texts about subjects of which the new target holds.
    references: list[dict[str, Any]] = json_list()
    # Whatever else the record held: case_id, known_id, relation_id, ...
    origin: dict[str, Any] = json_dict()


class Trace(SQLModel, table=True):
    """A causal trace of one revision over some facts; its results are rows of TraceResult."""

    __table_args__ = (one_of("tokens", ("all", "subject-last")), IDS_NEVER_REUSED)

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = child_of("model.id")
    revision: str = Field(foreign_key="revision.id", index=True)
    fact_set_id: int | None = Field(default=None, foreign_key="fact_set.id", ondelete="SET NULL", index=True)
    kinds: list[str] = json_list()
    # The rule as given, "3s" or "0.4"; the level that it came to is noise_level.
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
    created: datetime = created_now()


class TraceResult(SQLModel, table=True):
    """One traced prompt: scores[kind] = {"window": int, "scores": T rows of L}, null where not traced."""

    __tablename__ = "trace_result"
    __table_args__ = (UniqueConstraint("trace_id", "position"),)

    id: int | None = Field(default=None, primary_key=True)
    trace_id: int = child_of("trace.id")
    position: int
    prompt: str
    subject: str
    tokens: list[str] = json_list()
    token_ids: list[int] = json_list()
    # The subject's tokens, from begin up to but without end; like the answer empty if the fact was skipped.
    subject_begin: int = 0
    subject_end: int = 0
    answer: str = ""
    expected: str | None = None
    high: float | None = None
    low: float | None = None
    scores: dict[str, Any] = json_dict()
    # estimate[kind] = T rows of L: the preview that the exact scores replace.
    estimate: dict[str, Any] = json_dict()
    # Whether every score that was asked for is there; a job that was stopped traces the others again.
    is_complete: bool = True
    # The reason why this fact was not traced; None if it was.
    skip_reason: str | None = None


class AverageEffect(SQLModel, table=True):
    """The mean effect over a trace's facts at one (kind, token role, layer), with its interval."""

    __tablename__ = "average_effect"
    __table_args__ = (UniqueConstraint("trace_id", "kind", "role", "layer"),)

    id: int | None = Field(default=None, primary_key=True)
    trace_id: int = child_of("trace.id")
    kind: str
    role: str
    layer: int
    mean: float
    low: float
    high: float
    count: int


class Covariance(SQLModel, table=True):
    """The second moment E[k kT] of one layer's keys, with all that decides its value; the sums are a file."""

    __table_args__ = (Index(None, "model_id", "layer"), IDS_NEVER_REUSED)

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = child_of("model.id")
    layer: int
    module: str
    width: int
    # Of the base's weights, and of the tokenizer (engine.tokens); an imported file may not tell the latter.
    fingerprint: str
    tokenizer: str | None = None
    texts: str
    # The data set's commit on the hub, or the sha256 of the file.
    texts_revision: str
    seed: int | None = None
    tokens: int
    documents: int | None = None
    max_length: int | None = None
    dtype: str
    # {"tokens", "mean", "largest"}: change of C^-1 k since half the tokens (engine.covariance.convergence).
    curve: list[dict[str, Any]] = json_list()
    # Empty where it was collected here; {"extends": id}; or {"imported": file, "sha256", "format", ..}.
    origin: dict[str, Any] = json_dict()
    artifact: str = Field(foreign_key="artifact.sha256", index=True)
    created: datetime = created_now()


class Sweep(SQLModel, table=True):
    """The same requests written with many settings, one after another, and none of it kept; see SweepTrial.

    `hparams` are the settings from which every trial starts, `trial_count` is how many trials there will be.
    """

    __table_args__ = IDS_NEVER_REUSED

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = child_of("model.id")
    revision: str = Field(foreign_key="revision.id", index=True)
    fact_set_id: int | None = Field(default=None, foreign_key="fact_set.id", ondelete="SET NULL", index=True)
    # The trace whose effects are drawn beside the scores, if one was named.
    trace_id: int | None = Field(default=None, foreign_key="trace.id", ondelete="SET NULL", index=True)
    method: str
    hparams: dict[str, Any] = json_dict()
    requests: list[dict[str, Any]] = json_list()
    covariances: list[int] = json_list()
    seed: int
    trial_count: int
    protocol: dict[str, Any] = json_dict()
    created: datetime = created_now()


class SweepTrial(SQLModel, table=True):
    """One finished trial: `layers` were edited, with `changes` to the sweep's settings.

    `score` is {"of", "value", "low", "high", "count"}, see engine.ranking; `metrics` are an evaluation's.
    """

    __tablename__ = "sweep_trial"
    __table_args__ = (UniqueConstraint("sweep_id", "position"),)

    id: int | None = Field(default=None, primary_key=True)
    sweep_id: int = child_of("sweep.id")
    position: int
    layers: list[int] = json_list()
    changes: dict[str, Any] = json_dict()
    score: dict[str, Any] = json_dict()
    metrics: dict[str, Any] = json_dict()
    seconds: float
    # The reason why nothing could be written with these settings; None if it could.
    error: str | None = None


class Evaluation(SQLModel, table=True):
    """What one revision scored, with the protocol beside the numbers."""

    __table_args__ = IDS_NEVER_REUSED

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = child_of("model.id")
    revision: str = Field(foreign_key="revision.id", index=True)
    fact_set_id: int | None = Field(default=None, foreign_key="fact_set.id", ondelete="SET NULL", index=True)
    protocol: dict[str, Any] = json_dict()
    metrics: dict[str, Any] = json_dict()
    cases: list[dict[str, Any]] = json_list()
    # {"edit", "requests", "first_choice", "free"}: how many requests of each earlier edit still hold.
    retention: list[dict[str, Any]] = json_list()
    created: datetime = created_now()


class Passage(SQLModel, table=True):
    """A text put into a model fact by fact: what was written, what stuck, and how other ways compare.

    The lists hold what store.passage_files and engine.passages make: facts and questions; problems by fact; stages with
    their costs; the proof; each way's answers. What is empty was not reached or not asked for.
    """

    __table_args__ = IDS_NEVER_REUSED

    id: int | None = Field(default=None, primary_key=True)
    model_id: int = child_of("model.id")
    # The revision that it was put on; `revisions` are those that it made.
    revision: str = Field(foreign_key="revision.id", index=True)
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
    created: datetime = created_now()


class Job(SQLModel, table=True):
    """One piece of work and the process that does it. See store.jobs for who may write what, and when."""

    __table_args__ = (
        one_of("state", JOB_STATES),
        one_of("error_kind", ("input", "failure")),
        one_of("stop_request", STOPS),
        IDS_NEVER_REUSED,
    )

    id: int | None = Field(default=None, primary_key=True)
    kind: str = Field(index=True)
    spec: dict[str, Any] = json_dict()
    state: str = Field(default="queued", index=True)
    priority: int = 0
    device: str
    pid: int | None = None
    # The token of the process that claimed it; every later write must show it.
    owner: str | None = None
    attempt: int = 0
    done: float = 0
    total: float | None = None
    unit: str = ""
    rate: float | None = None
    activity: str = ""
    # Bytes that its process holds: of the device where that is a GPU, else resident.
    memory: int | None = None
    seconds_left: float | None = None
    # Of a job on a cluster, by a node's id: host, state, workers, done, unit, rate.
    nodes: dict[str, Any] = json_dict()
    heartbeat: datetime | None = None
    # What a person asked of it while it was alive.
    stop_request: str | None = None
    error: str | None = None
    error_kind: str | None = None
    result: dict[str, Any] = json_dict()
    checkpoint: dict[str, Any] = json_dict()
    created: datetime = created_now()
    started: datetime | None = None
    ended: datetime | None = None


class Publication(SQLModel, table=True):
    """One push of a revision to the hub."""

    __table_args__ = (one_of("kind", ("checkpoint", "adapter")),)

    id: int | None = Field(default=None, primary_key=True)
    revision: str = child_of("revision.id")
    repo: str
    commit: str
    kind: str
    url: str
    account: str
    # The tag that names the commit on the hub, `edit/REVISION`; None if another commit had it already.
    tag: str | None = None
    # When it was taken back from the hub; None while it is there.
    unpublished: datetime | None = None
    created: datetime = created_now()


class AppVersion(SQLModel, table=True):
    """Which version of the program ran which migration: what a too old program tells its user."""

    __tablename__ = "app_version"

    id: int | None = Field(default=None, primary_key=True)
    migration: str
    version: str
    created: datetime = created_now()
