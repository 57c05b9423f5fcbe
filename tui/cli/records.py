"""Rows of the catalog as JSON for scripts. The field names are part of the interface."""

from collections.abc import Sequence
from typing import Any

from ...store.catalog.tables import (
    AverageEffect,
    Covariance,
    Evaluation,
    Fact,
    Model,
    Publication,
    Revision,
    Sweep,
    SweepTrial,
    Trace,
    TraceResult,
)
from ...store.facts.sets import REQUEST_FIELDS


def model_record(model: Model) -> dict[str, Any]:
    fields = ("name", "source", "source_kind", "commit", "path", "architecture", "dtype", "parameters", "size",
              "anatomy", "fingerprint", "trust_remote_code", "head", "created")  # fmt: skip
    return {name: getattr(model, name) for name in fields}


def fact_record(fact: Fact) -> dict[str, Any]:
    fields = (*REQUEST_FIELDS, "references", "origin")
    return {name: getattr(fact, name) for name in fields}


def trace_record(trace: Trace, model: str, results: Sequence[TraceResult]) -> dict[str, Any]:
    fields = (
        "revision",
        "kinds",
        "noise",
        "noise_level",
        "replace",
        "swap",
        "samples",
        "window",
        "seed",
        "tokens",
        "protocol",
        "created",
    )
    record: dict[str, Any] = {"trace": trace.id, "model": model}
    record |= {name: getattr(trace, name) for name in fields}
    return record | {"results": [result_record(result) for result in results]}


def result_record(result: TraceResult) -> dict[str, Any]:
    return {
        "prompt": result.prompt,
        "subject": result.subject,
        "tokens": result.tokens,
        "subject_range": [result.subject_begin, result.subject_end],
        "answer": result.answer,
        "expected": result.expected,
        "high": result.high,
        "low": result.low,
        "skip_reason": result.skip_reason,
        "kinds": result.scores,
    }


def effect_record(effect: AverageEffect) -> dict[str, Any]:
    return {name: getattr(effect, name) for name in ("kind", "role", "layer", "mean", "low", "high", "count")}


def covariance_record(covariance: Covariance, model: str) -> dict[str, Any]:
    fields = ("layer", "module", "width", "fingerprint", "tokenizer", "texts", "texts_revision", "seed", "tokens",
              "documents", "max_length", "dtype", "curve", "origin", "artifact", "created")  # fmt: skip
    return {"covariance": covariance.id, "model": model} | {
        name: getattr(covariance, name) for name in fields
    }


def revision_record(revision: Revision) -> dict[str, Any]:
    fields = ("id", "parent", "kind", "reverts", "method", "hparams", "seed", "contexts", "requests", "covariances",
              "delta", "statistics", "message", "created", "fingerprint")  # fmt: skip
    return {name: getattr(revision, name) for name in fields}


def evaluation_record(evaluation: Evaluation, model: str) -> dict[str, Any]:
    fields = ("revision", "protocol", "metrics", "retention", "cases", "created")
    return {"evaluation": evaluation.id, "model": model} | {
        name: getattr(evaluation, name) for name in fields
    }


def publication_record(publication: Publication) -> dict[str, Any]:
    fields = ("revision", "repo", "commit", "kind", "url", "account", "tag", "unpublished", "created")
    return {"publication": publication.id} | {name: getattr(publication, name) for name in fields}


def sweep_record(sweep: Sweep, model: str) -> dict[str, Any]:
    fields = (
        "revision",
        "method",
        "hparams",
        "requests",
        "covariances",
        "seed",
        "trial_count",
        "protocol",
        "created",
    )
    return {"sweep": sweep.id, "model": model} | {name: getattr(sweep, name) for name in fields}


def trial_record(trial: SweepTrial) -> dict[str, Any]:
    fields = ("layers", "changes", "score", "metrics", "seconds", "error")
    return {name: getattr(trial, name) for name in fields}
