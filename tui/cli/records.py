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


def _pick(row: Any, fields: str) -> dict[str, Any]:
    """The named fields of a row; the names are separated by spaces."""
    return {name: getattr(row, name) for name in fields.split()}


def model_record(model: Model) -> dict[str, Any]:
    return _pick(
        model,
        "name source source_kind commit path architecture dtype parameters size anatomy fingerprint "
        "trust_remote_code head created",
    )


def fact_record(fact: Fact) -> dict[str, Any]:
    return _pick(fact, " ".join((*REQUEST_FIELDS, "references", "origin")))


def trace_record(trace: Trace, model: str, results: Sequence[TraceResult]) -> dict[str, Any]:
    fields = _pick(
        trace, "revision kinds noise noise_level replace swap samples window seed tokens protocol created"
    )
    return {"trace": trace.id, "model": model} | fields | {"results": [result_record(r) for r in results]}


def result_record(result: TraceResult) -> dict[str, Any]:
    return {
        **_pick(result, "prompt subject tokens"),
        "subject_range": [result.subject_begin, result.subject_end],
        **_pick(result, "answer expected high low skip_reason"),
        "kinds": result.scores,
    }


def effect_record(effect: AverageEffect) -> dict[str, Any]:
    return _pick(effect, "kind role layer mean low high count")


def covariance_record(covariance: Covariance, model: str) -> dict[str, Any]:
    fields = _pick(
        covariance,
        "layer module width fingerprint tokenizer texts texts_revision seed tokens documents max_length dtype curve "
        "origin artifact created",
    )
    return {"covariance": covariance.id, "model": model} | fields


def revision_record(revision: Revision) -> dict[str, Any]:
    return _pick(
        revision,
        "id parent kind reverts method hparams seed contexts requests covariances delta statistics message created "
        "fingerprint",
    )


def evaluation_record(evaluation: Evaluation, model: str) -> dict[str, Any]:
    fields = _pick(evaluation, "revision protocol metrics retention cases created")
    return {"evaluation": evaluation.id, "model": model} | fields


def publication_record(publication: Publication) -> dict[str, Any]:
    fields = _pick(publication, "revision repo commit kind url account tag unpublished created")
    return {"publication": publication.id} | fields


def sweep_record(sweep: Sweep, model: str) -> dict[str, Any]:
    fields = _pick(sweep, "revision method hparams requests covariances seed trial_count protocol created")
    return {"sweep": sweep.id, "model": model} | fields


def trial_record(trial: SweepTrial) -> dict[str, Any]:
    return _pick(trial, "layers changes score metrics seconds error")
