"""What a job is asked to do, one data class per kind. Stored in the job's row as JSON; read back by the worker.

`model` is a model's name and `revision` what names one of its revisions (`head`, `base`, an id); the submitter
resolves `head` to an id, so that a job means what it meant when it was submitted.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from ...store.errors import InputError

if TYPE_CHECKING:
    from ...store.catalog.tables import Covariance

SUITES = ("quick", "standard", "full")
# Of an exported or published checkpoint.
SHARD_BYTES = 5_000_000_000


@dataclass(frozen=True)
class Spec:
    """What every job has: a kind, and itself as JSON."""

    kind: ClassVar[str]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ModelSpec(Spec):
    """Add a model to the catalog: `source` is a hub id, a folder, a .gguf file, or `starter`."""

    kind: ClassVar[str] = "model"
    source: str
    name: str
    commit: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True)
class TraceSpec(Spec):
    """Trace one prompt, or every fact of a set.

    `noise` is a rule of engine.noise, fitted to `texts` where it needs some; with `swap` the corruption is another
    subject instead: that one, or for a set of facts `auto`. `trace` names a trace to go on with: only facts that it
    lacks are traced. Of several `shards` of one trace this job does every so-manieth fact. `threads` are those of a
    worker on Ray.
    """

    kind: ClassVar[str] = "trace"
    model: str
    revision: str = "head"
    facts: str | None = None
    prompt: str | None = None
    subject: str | None = None
    expected: str | None = None
    kinds: list[str] = field(default_factory=lambda: ["hidden", "mlp", "attn"])
    samples: int = 10
    noise: str = "3s"
    window: int = 10
    seed: int = 1
    tokens: str = "all"
    replace: bool = False
    texts: str = "shipped"
    swap: str | None = None
    trace: int | None = None
    shard: int = 0
    shards: int = 1
    threads: int | None = None


@dataclass(frozen=True)
class CovarianceSpec(Spec):
    """Collect the second moment of the keys at some layers from texts (see engine.corpus for the sources).

    It ends before `max_tokens` when doubling the tokens changes C^-1 k by at most `tolerance` (1 - cos). `extends`
    names covariances of the catalog, one for each layer, whose sums it goes on from: see `topping_up`. `threads` are
    those of a worker on Ray.
    """

    kind: ClassVar[str] = "covariance"
    model: str
    layers: list[int]
    texts: str = "shipped"
    max_tokens: int = 100_000
    max_length: int = 512
    seed: int = 1
    tolerance: float | None = None
    extends: list[int] = field(default_factory=list)
    threads: int | None = None

    @classmethod
    def topping_up(
        cls, rows: "Sequence[Covariance]", model: str, max_tokens: int, tolerance: float | None = None
    ) -> Self:
        """Go on from covariances of one run of `model` to `max_tokens`, with the texts and settings that they had.

        Raises:
            InputError: they were imported, are not of one run, or have seen so much text already.
        """
        first = rows[0]
        names = ", ".join(str(row.id) for row in rows)
        if imported := [row for row in rows if "imported" in row.origin]:
            raise InputError(
                f"covariance {imported[0].id} was imported: its file does not tell where its texts ended, so it "
                "cannot go on from there; collect one with `retcon covariance run`"
            )
        if len({row.layer for row in rows}) < len(rows) or any(
            _run_of(row) != _run_of(first) for row in rows
        ):
            raise InputError(f"covariances {names} are not the layers of one run: top them up one by one")
        if first.tokens >= max_tokens:
            raise InputError(
                f"covariance {names} has seen {first.tokens:,} tokens already: ask for more than that in all"
            )
        if tolerance is not None and all(row.curve and row.curve[-1]["mean"] <= tolerance for row in rows):
            raise InputError(
                f"covariance {names} has converged to {tolerance:g} already: it needs no more text"
            )
        assert first.seed is not None and first.max_length is not None  # only imported ones lack them
        layers, ids = [row.layer for row in rows], [row.id or 0 for row in rows]
        return cls(model, layers, first.texts, max_tokens, first.max_length, first.seed, tolerance, ids)


def _run_of(row: "Covariance") -> tuple[object, ...]:
    """What covariances of one run have in common."""
    return (row.model_id, row.texts, row.texts_revision, row.seed, row.max_length, row.tokens, row.tokenizer)


@dataclass(frozen=True)
class EditSpec(Spec):
    """Write facts. Each request has `subject`, `prompt` (with one `{}`) and `target_new`; the rest is kept beside them.

    `hparams` changes single settings of the preset or of `hparams_file`; `covariance` names one of the catalog, else
    the newest of the layer serves, else one is collected from `texts` first. They are written `batch` at a time, one
    batch after another; by default as many at once as the method can.
    """

    kind: ClassVar[str] = "edit"
    model: str
    requests: list[dict[str, Any]]
    revision: str = "head"
    method: str = "r-rome"
    hparams: dict[str, Any] = field(default_factory=dict)
    hparams_file: str | None = None
    covariance: int | None = None
    texts: str = "shipped"
    seed: int = 1
    message: str = ""
    batch: int | None = None


@dataclass(frozen=True)
class SweepSpec(Spec):
    """Write the same requests at each of some layers and keep none of it.

    `layers` are the last ones of the trials; a method that edits several edits as many as `hparams` has, up to there.
    `hparams` are all the settings that every trial starts from, taken down when the sweep was submitted, so that a
    resumed one goes on with them; `tries` holds the values to try of some of them, in all combinations. `facts` is the
    set that the requests came from, `trace` the one to compare with, if named.
    """

    kind: ClassVar[str] = "sweep"
    model: str
    requests: list[dict[str, Any]]
    layers: list[int]
    hparams: dict[str, Any]
    revision: str = "head"
    method: str = "r-rome"
    tries: dict[str, list[Any]] = field(default_factory=dict)
    facts: str | None = None
    trace: int | None = None
    texts: str = "shipped"
    seed: int = 1


@dataclass(frozen=True)
class RevertSpec(Spec):
    """Take one edit out of the head's history: a new revision without it."""

    kind: ClassVar[str] = "revert"
    model: str
    reverts: str
    message: str = ""


@dataclass(frozen=True)
class VerifySpec(Spec):
    """Make a revision's weights anew and compare every tensor with what its fingerprint says."""

    kind: ClassVar[str] = "verify"
    model: str
    revision: str = "head"


@dataclass(frozen=True)
class EvaluationSpec(Spec):
    """Score a revision on a fact set, or on the requests of the edits of `requests_of`, by default its own.

    A suite of SUITES: `quick` is teacher-forced scores, `standard` adds free generation, chat, KL and earlier edits,
    `full` also longer texts (GE, RS, essence) and the perplexity of `texts`.
    """

    kind: ClassVar[str] = "evaluation"
    model: str
    revision: str = "head"
    facts: str | None = None
    max_new_tokens: int = 20
    seed: int = 1
    requests_of: str | None = None
    suite: str = "standard"
    texts: str = "held-out"


@dataclass(frozen=True)
class AskSpec(Spec):
    """Ask one prompt of several revisions: completion and likeliest next tokens, in the order of `revisions`."""

    kind: ClassVar[str] = "ask"
    model: str
    prompt: str
    revisions: list[str] = field(default_factory=lambda: ["head"])
    max_new_tokens: int = 20
    top: int = 5


@dataclass(frozen=True)
class ExportSpec(Spec):
    """Write a revision to a folder: `what` is one of EXPORT_KINDS, `shard_size` the bytes of a shard."""

    kind: ClassVar[str] = "export"
    model: str
    folder: str
    revision: str = "head"
    what: str = "checkpoint"
    shard_size: int = SHARD_BYTES


@dataclass(frozen=True)
class ImportEditsSpec(Spec):
    """Put the edits of an exported folder on a model with the same base."""

    kind: ClassVar[str] = "import_edits"
    model: str
    folder: str


@dataclass(frozen=True)
class PublishSpec(Spec):
    """Publish a revision to a repo of the hub, or with `dry_run` only tell what would be sent.

    `card` is a text to publish in place of the one that is made from the history; `pictures` are (name, artifact,
    caption) of images that go with it. A repo that is not there is made, private unless `public`.
    """

    kind: ClassVar[str] = "publish"
    model: str
    repo: str
    revision: str = "head"
    what: str = "checkpoint"
    public: bool = False
    dry_run: bool = False
    message: str = ""
    card: str | None = None
    license: str | None = None
    pictures: list[tuple[str, str, str]] = field(default_factory=list)
    shard_size: int = SHARD_BYTES


@dataclass(frozen=True)
class UnpublishSpec(Spec):
    """Take a tag off a repo of the hub, or without one remove the whole repo."""

    kind: ClassVar[str] = "unpublish"
    repo: str
    tag: str | None = None


@dataclass(frozen=True)
class PassageSpec(Spec):
    """Put the facts of a passage into a model, prove what stuck, and compare with other ways to answer.

    `facts` is the text of a file of facts (store.passage_files); empty, they are made of the prose `text` by `llm`:
    `endpoint` (`llm_url` and `llm_model`, else the environment's; its key only from there) or a model of the catalog.
    The job then pauses, for a person to look at them, if it shall be `review`ed. They are written in `edits` edits, one
    after another. `against` are ways to answer the questions beside the unedited and the edited model: `prompt`,
    `retrieval`, `reranked`, or a method, whose edit is not kept. Of `prompts`, about anything else, the first choice
    should stay.
    """

    kind: ClassVar[str] = "passage"
    model: str
    title: str = ""
    text: str = ""
    facts: str = ""
    revision: str = "head"
    method: str = "joint"
    hparams: dict[str, Any] = field(default_factory=dict)
    hparams_file: str | None = None
    edits: int = 1
    against: list[str] = field(default_factory=lambda: ["prompt", "retrieval", "lora"])
    prompts: list[str] = field(default_factory=list)
    llm: str = ""
    llm_url: str | None = None
    llm_model: str | None = None
    review: bool = True
    judge: bool = False
    texts: str = "shipped"
    seed: int = 1

    def edit(self, requests: list[dict[str, Any]], revision: str) -> EditSpec:
        """The edit that writes some of the facts on a revision."""
        return EditSpec(
            self.model, requests, revision, self.method, self.hparams, self.hparams_file,
            texts=self.texts, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True)
class PreflightSpec(Spec):
    """Measure how long the job `of` (a spec of kind `of_kind`) will take: do some seconds of it and keep nothing."""

    kind: ClassVar[str] = "preflight"
    model: str
    of_kind: str
    of: dict[str, Any]


SPECS: dict[str, type[Spec]] = {
    spec.kind: spec
    for spec in (
        ModelSpec, TraceSpec, CovarianceSpec, EditSpec, SweepSpec, RevertSpec, VerifySpec, EvaluationSpec, AskSpec,
        ExportSpec, ImportEditsSpec, PublishSpec, UnpublishSpec, PassageSpec, PreflightSpec,
    )
}  # fmt: skip
