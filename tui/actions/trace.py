"""Check the options of a causal trace and build its job."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlmodel import Session, col, select

from ...engine.jobs.specs import TraceSpec
from ...engine.tracing.rules import NoiseRule
from ...prompts import fill_prompt, make_template
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import AverageEffect, FactSet, Model, Trace, TraceResult
from ...store.errors import InputError, NotFound
from ...store.facts import sets as fact_sets
from .targets import resolve_target
from .values import TOKENS

_DEFAULT = TraceSpec(model="")


@dataclass(frozen=True)
class TraceOptions:
    """What a person chooses for a trace: a prompt and its subject, or a set of facts, and how to corrupt it."""

    target: str
    fact_set: str | None = None
    prompt: str | None = None
    subject: str | None = None
    expected: str | None = None
    kinds: Sequence[str] = field(default_factory=lambda: _DEFAULT.kinds)
    samples: int = _DEFAULT.samples
    noise: str = _DEFAULT.noise
    replace: bool = False
    texts: str = _DEFAULT.texts
    swap: str | None = None
    window: int = _DEFAULT.window
    seed: int = _DEFAULT.seed
    tokens: str = _DEFAULT.tokens


def build_trace_spec(catalog: Catalog, options: TraceOptions) -> TraceSpec:
    """Check the options and build the job.

    Raises:
        InputError: an option is wrong, or options exclude each other.
        NotFound: the model, revision or fact set does not exist.
    """
    target = resolve_target(catalog, options.target)
    facts, prompt, subject = options.fact_set or None, options.prompt, options.subject
    if facts:
        if prompt:
            raise InputError(
                "give either a fact set (--facts), or a prompt and its subject (--prompt, --subject)"
            )
        if options.expected:
            raise InputError("--expect needs --prompt: a fact set has its own answers")
        prompt = subject = None
        with catalog.read() as session:
            fact_sets.find_fact_set(session, facts)
    elif prompt is None:
        raise InputError(
            "give either a fact set (--facts), or a prompt and its subject (--prompt, --subject)"
        )
    else:
        subject = subject or ""
        prompt = fill_prompt(make_template(prompt, subject), subject)
    if options.tokens not in TOKENS:
        raise InputError(f"--tokens must be {' or '.join(TOKENS)}")
    noise, swap = _check_corruption(options, subject)
    return TraceSpec(
        model=target.model.name, revision=target.revision.id, facts=facts, prompt=prompt, subject=subject,
        expected=options.expected or None, kinds=list(options.kinds), samples=options.samples, noise=noise,
        window=options.window, seed=options.seed, tokens=options.tokens, replace=options.replace,
        texts=options.texts or _DEFAULT.texts, swap=swap,
    )  # fmt: skip


def _check_corruption(options: TraceOptions, subject: str | None) -> tuple[str, str | None]:
    """The noise rule and, if the subject is swapped, the other subject."""
    swap = options.swap or None
    if swap is None:
        NoiseRule.parse(options.noise)  # raises InputError
        return options.noise, None
    if options.noise not in ("", _DEFAULT.noise):
        raise InputError("corrupt by noise (--noise) or by another subject (--swap-subject), not both")
    if swap == "auto" and subject is not None:
        raise InputError("--swap-subject auto needs --facts: for one prompt, name the other subject")
    if swap == subject:
        raise InputError(f"--swap-subject {swap!r} is the subject itself: name another subject")
    return _DEFAULT.noise, swap


def build_trace_extension(catalog: Catalog, id: int) -> TraceSpec:
    """The job that traces the facts that a trace's set has and the trace lacks, with the trace's settings.

    Raises:
        NotFound: the trace does not exist.
        InputError: it has no fact set, or its noise cannot be repeated.
    """
    with catalog.read() as session:
        trace, model, _ = load_trace(session, id)
        fact_set = session.get(FactSet, trace.fact_set_id) if trace.fact_set_id else None
    if fact_set is None:
        raise InputError(f"trace {id} has no fact set, so no facts can be added to it")
    # The noise level of its other facts: a rule such as 3s would give another level for new subjects.
    noise = str(trace.noise_level) if trace.noise.endswith("s") else trace.noise
    texts = trace.protocol.get("texts")
    if not trace.swap and NoiseRule.parse(noise).needs_texts and texts is None:
        raise InputError(
            f"trace {id} does not record the texts that its noise {trace.noise} was fitted to, so new facts would be "
            "corrupted differently. Trace the set again."
        )
    return TraceSpec(
        model=model.name, revision=trace.revision, facts=fact_set.name, kinds=trace.kinds, samples=trace.samples,
        noise=_DEFAULT.noise if trace.swap else noise, window=trace.window, seed=trace.seed, tokens=trace.tokens,
        replace=trace.replace, swap=trace.swap, extends=id,
        texts=texts or _DEFAULT.texts,
    )  # fmt: skip


def load_trace(session: Session, id: int) -> tuple[Trace, Model, list[TraceResult]]:
    """A trace, its model, and its results in the order of the facts. Raises NotFound."""
    trace = session.get(Trace, id)
    if trace is None:
        raise NotFound(f"trace {id} does not exist; `retcon trace list` lists the traces")
    query = select(TraceResult).where(TraceResult.trace_id == id).order_by(col(TraceResult.position))
    return trace, session.get_one(Model, trace.model_id), list(session.exec(query))


def load_average_effects(session: Session, id: int) -> list[AverageEffect]:
    """The average effects of a trace, in the order in which they were saved."""
    query = select(AverageEffect).where(AverageEffect.trace_id == id).order_by(col(AverageEffect.id))
    return list(session.exec(query))
