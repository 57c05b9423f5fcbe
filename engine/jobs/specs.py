"""Specs: the settings of a job, one checked data class per kind. A job's row holds its spec as JSON.

`model` is a model's name. `revision` is a revision's id, `head` or `base`; commands resolve `head` to an id when they
submit, so that a later move of the head does not change the job.
"""

from collections.abc import Sequence
from dataclasses import asdict, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import ConfigDict, ValidationError
from pydantic.dataclasses import dataclass

from ...store.errors import InputError

if TYPE_CHECKING:
    from ...store.catalog.tables import Covariance

SUITES = ("quick", "standard", "full")
# Most bytes of one weight file of an exported or published checkpoint.
SHARD_BYTES = 5_000_000_000
# A field that a kind of job does not have is an error, not ignored.
_CONFIG = ConfigDict(extra="forbid")
SPECS: "dict[str, type[Spec]]" = {}


@dataclass(frozen=True, config=_CONFIG)
class Spec:
    """Base of all specs. A subclass is registered under its kind."""

    kind: ClassVar[str]

    def __init_subclass__(cls, kind: str) -> None:
        cls.kind = kind
        SPECS[kind] = cls

    def as_dict(self) -> dict[str, Any]:
        """The spec as JSON; `read_spec` reads it."""
        return asdict(self)


def read_spec(kind: str, values: dict[str, Any]) -> Spec:
    """Build the spec of a job from its row.

    Raises:
        InputError: the kind is unknown, or a field is unknown, missing or of the wrong type.
    """
    if kind not in SPECS:
        raise InputError(f"unknown kind of job {kind!r}; valid kinds: {', '.join(SPECS)}")
    names = _OLD_NAMES.get(kind, {})
    try:
        return SPECS[kind](**{names.get(name, name): value for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(map(str, first["loc"]))
        raise InputError(f"invalid spec of a job of kind {kind}: {name}: {first['msg']}") from None


@dataclass(frozen=True, config=_CONFIG)
class ModelSpec(Spec, kind="model"):
    """Add a model to the catalog. `source` is a Hub id, a folder, a .gguf file, or `starter`."""

    source: str
    name: str
    commit: str | None = None
    trust_remote_code: bool = False


@dataclass(frozen=True, config=_CONFIG)
class TraceSpec(Spec, kind="trace"):
    """Trace one prompt, or every fact of the set `facts`.

    `expected` is the expected answer to `prompt`. `noise` is a rule (see tracing.rules), which may be fitted to
    `texts`. `swap` replaces the subject instead of adding noise: a subject, or `auto` for a set of facts. `extends` is
    the id of a trace to extend: the job traces only facts that it lacks. The job traces facts i, i+n, i+2n, .. with
    i = `shard` and n = `shards`. `threads` are those of a worker on Ray.
    """

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
    extends: int | None = None
    shard: int = 0
    shards: int = 1
    threads: int | None = None


@dataclass(frozen=True, config=_CONFIG)
class CovarianceSpec(Spec, kind="covariance"):
    """Collect the second moment of the keys of some layers from texts (see covariance.corpus for the sources).

    The job ends before `max_tokens` when doubling the tokens changes C^-1 k by at most `tolerance` (1 - cos). With
    `extends`, the ids of one covariance per layer, it continues their sums: see `continue_from`. `max_length` is in
    tokens. `threads` are those of a worker on Ray.
    """

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
    def continue_from(
        cls, rows: "Sequence[Covariance]", model: str, max_tokens: int, tolerance: float | None = None
    ) -> Self:
        """Continue covariances of one run of `model` up to `max_tokens`, with the same texts and settings.

        Raises:
            InputError: a covariance was imported, they are of different runs, or they have enough tokens already.
        """
        first = rows[0]
        names = ", ".join(str(row.id) for row in rows)
        if imported := [row for row in rows if "imported" in row.origin]:
            raise InputError(
                f"covariance {imported[0].id} was imported and cannot be continued, because its file does not record "
                "where its texts ended; collect a new one with `retcon covariance run`"
            )
        if len({row.layer for row in rows}) < len(rows) or any(
            _run_key(row) != _run_key(first) for row in rows
        ):
            raise InputError(
                f"covariances {names} are not the layers of one run: continue each one separately"
            )
        if first.tokens >= max_tokens:
            raise InputError(f"covariance {names} has {first.tokens:,} tokens already: choose a larger total")
        if tolerance is not None and all(row.curve and row.curve[-1]["mean"] <= tolerance for row in rows):
            raise InputError(
                f"covariance {names} has converged to {tolerance:g} already: no more text is needed"
            )
        assert first.seed is not None and first.max_length is not None  # only imported ones lack them
        layers, ids = [row.layer for row in rows], [row.id or 0 for row in rows]
        return cls(model, layers, first.texts, max_tokens, first.max_length, first.seed, tolerance, ids)


def _run_key(row: "Covariance") -> tuple[object, ...]:
    """The fields that covariances of one run share."""
    return (row.model_id, row.texts, row.texts_revision, row.seed, row.max_length, row.tokens, row.tokenizer)


@dataclass(frozen=True, config=_CONFIG)
class EditSpec(Spec, kind="edit"):
    """Write facts into a revision.

    Each request has `subject`, `prompt` (with one `{}`) and `target_new`; other fields are stored with it. `hparams`
    overrides fields of the preset or of `hparams_file`. `covariance` is an id; by default the newest one of the layer
    is used, or one is collected from `texts`. `batch` is the number of requests per batch; by default as many as the
    method can write together.
    """

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


@dataclass(frozen=True, config=_CONFIG)
class SweepSpec(Spec, kind="sweep"):
    """Write the same requests with different settings, score each trial and keep no edit.

    `layers` are the last layers of the trials; a method of several layers edits the ones below as well. `hparams` are
    the complete settings of every trial; they are stored at submission, so that a resumed sweep uses the same ones.
    `grid` maps names of settings to the values to try, in all combinations. `facts` is the set of the requests,
    `trace` the id of a trace to compare with.
    """

    model: str
    requests: list[dict[str, Any]]
    layers: list[int]
    hparams: dict[str, Any]
    revision: str = "head"
    method: str = "r-rome"
    grid: dict[str, list[Any]] = field(default_factory=dict)
    facts: str | None = None
    trace: int | None = None
    texts: str = "shipped"
    seed: int = 1


@dataclass(frozen=True, config=_CONFIG)
class RevertSpec(Spec, kind="revert"):
    """Create a revision without one edit of the head's history. `reverts` is the id of that edit."""

    model: str
    reverts: str
    message: str = ""


@dataclass(frozen=True, config=_CONFIG)
class VerifySpec(Spec, kind="verify"):
    """Compute a revision's weights again and compare every tensor with its fingerprint."""

    model: str
    revision: str = "head"


@dataclass(frozen=True, config=_CONFIG)
class EvaluationSpec(Spec, kind="evaluation"):
    """Score a revision on the fact set `facts`, or on the requests of the edits of `requests_of` (default: its own).

    `quick` is teacher-forced scores. `standard` adds free generation, chat, KL and earlier edits. `full` adds longer
    texts (GE, RS, essence) and the perplexity of `texts`.
    """

    model: str
    revision: str = "head"
    facts: str | None = None
    max_new_tokens: int = 20
    seed: int = 1
    requests_of: str | None = None
    suite: str = "standard"
    texts: str = "held-out"


@dataclass(frozen=True, config=_CONFIG)
class AskSpec(Spec, kind="ask"):
    """Complete a prompt at several revisions; the result has completions and the `top` likeliest next tokens."""

    model: str
    prompt: str
    revisions: list[str] = field(default_factory=lambda: ["head"])
    max_new_tokens: int = 20
    top: int = 5


@dataclass(frozen=True, config=_CONFIG)
class ExportSpec(Spec, kind="export"):
    """Export a revision to a folder. `export_kind` is one of the manifest's EXPORT_KINDS, `shard_size` in bytes."""

    model: str
    folder: str
    revision: str = "head"
    export_kind: str = "checkpoint"
    shard_size: int = SHARD_BYTES


@dataclass(frozen=True, config=_CONFIG)
class ImportEditsSpec(Spec, kind="import_edits"):
    """Apply the edits of an exported folder to a model with the same base."""

    model: str
    folder: str


@dataclass(frozen=True, config=_CONFIG)
class PublishSpec(Spec, kind="publish"):
    """Publish a revision to a Hub repo; with `dry_run`, only list what would be sent.

    `card` replaces the generated model card. `pictures` are (name, artifact, caption) of images. `public` is the
    visibility of a new repo; an existing repo is not changed.
    """

    model: str
    repo: str
    revision: str = "head"
    export_kind: str = "checkpoint"
    public: bool = False
    dry_run: bool = False
    message: str = ""
    card: str | None = None
    license: str | None = None
    pictures: list[tuple[str, str, str]] = field(default_factory=list)
    shard_size: int = SHARD_BYTES


@dataclass(frozen=True, config=_CONFIG)
class UnpublishSpec(Spec, kind="unpublish"):
    """Delete a tag of a Hub repo; without a tag, delete the repo."""

    repo: str
    tag: str | None = None


@dataclass(frozen=True, config=_CONFIG)
class PassageSpec(Spec, kind="passage"):
    """Write the facts of a passage into a model, test what was learned, and compare with baselines.

    `facts` is the text of a facts file (see store.facts.passage_format). Without it, the model `llm` extracts facts
    from the prose `text`: `endpoint` (`llm_url` and `llm_model`, or the environment's; the key is only in the
    environment) or a model of the catalog. With `review`, the job then pauses so that a user can check the facts. The
    facts are written in `edits` consecutive edits. `baselines` answer the same questions: `prompt`, `retrieval`,
    `reranked`, or a method, whose edit is not kept. `prompts` are about other topics; their first choice should not
    change.
    """

    model: str
    title: str = ""
    text: str = ""
    facts: str = ""
    revision: str = "head"
    method: str = "joint"
    hparams: dict[str, Any] = field(default_factory=dict)
    hparams_file: str | None = None
    edits: int = 1
    baselines: list[str] = field(default_factory=lambda: ["prompt", "retrieval", "lora"])
    prompts: list[str] = field(default_factory=list)
    llm: str = ""
    llm_url: str | None = None
    llm_model: str | None = None
    review: bool = True
    judge: bool = False
    texts: str = "shipped"
    seed: int = 1

    def build_edit(self, requests: list[dict[str, Any]], revision: str) -> EditSpec:
        """The spec of an edit that writes some of the facts into a revision."""
        return EditSpec(
            self.model, requests, revision, self.method, self.hparams, self.hparams_file,
            texts=self.texts, seed=self.seed,
        )  # fmt: skip


@dataclass(frozen=True, config=_CONFIG)
class PreflightSpec(Spec, kind="preflight"):
    """Estimate the duration of another job, whose spec is `job_spec`: run some seconds of it and keep nothing."""

    model: str
    job_kind: str
    job_spec: dict[str, Any]


# Fields of specs in older catalogs: {kind: {old name: new name}}.
_OLD_NAMES = {
    "trace": {"trace": "extends"},
    "sweep": {"tries": "grid"},
    "export": {"what": "export_kind"},
    "publish": {"what": "export_kind"},
    "passage": {"against": "baselines"},
    "preflight": {"of_kind": "job_kind", "of": "job_spec"},
}
