"""Check the options of a causal trace and build its job."""

from dataclasses import replace

from sqlmodel import Session, col, select

from ...engine.jobs.specs import TraceSpec
from ...engine.tracing.rules import NoiseRule
from ...prompts import fill_prompt, make_template
from ...store.catalog.catalog import Catalog
from ...store.catalog.tables import AverageEffect, FactSet, Model, Trace, TraceResult
from ...store.errors import InputError, NotFound
from ...store.facts import sets as fact_sets
from .targets import resolve_spec
from .values import TOKENS

_DEFAULT = TraceSpec(model="")


def build_trace_spec(catalog: Catalog, draft: TraceSpec) -> TraceSpec:
    """Check a draft (see `resolve_spec`) and complete its prompt.

    Raises:
        InputError: an option is wrong, or options exclude each other.
        NotFound: the model, revision or fact set does not exist.
    """
    _, spec = resolve_spec(catalog, draft)
    facts, prompt, subject = spec.facts or None, spec.prompt, spec.subject
    if facts:
        if prompt:
            raise InputError(
                "give either a fact set (--facts), or a prompt and its subject (--prompt, --subject)"
            )
        if spec.expected:
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
    if spec.tokens not in TOKENS:
        raise InputError(f"--tokens must be {' or '.join(TOKENS)}")
    noise, swap = _check_corruption(spec, subject)
    return replace(
        spec, facts=facts, prompt=prompt, subject=subject, expected=spec.expected or None, noise=noise, swap=swap,
        texts=spec.texts or _DEFAULT.texts,
    )  # fmt: skip


def _check_corruption(spec: TraceSpec, subject: str | None) -> tuple[str, str | None]:
    """The noise rule and, if the subject is swapped, the other subject."""
    swap = spec.swap or None
    if swap is None:
        NoiseRule.parse(spec.noise)  # raises InputError
        return spec.noise, None
    if spec.noise not in ("", _DEFAULT.noise):
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
