"""Rows of the catalog as JSON for scripts. The field names are part of the interface."""

from collections.abc import Sequence
from typing import Any

from ...store.catalog import tables
from ...store.facts.sets import REQUEST_FIELDS

_FIELDS: dict[type, str] = {
    tables.Model: "name source source_kind commit path architecture dtype parameters size anatomy fingerprint "
    "trust_remote_code head created",
    tables.Fact: " ".join((*REQUEST_FIELDS, "references", "origin")),
    tables.Trace: "revision kinds noise noise_level replace swap samples window seed tokens protocol created",
    tables.AverageEffect: "kind role layer mean low high count",
    tables.Covariance: "layer module width fingerprint tokenizer texts texts_revision seed tokens documents "
    "max_length dtype curve origin artifact created",
    tables.Revision: "id parent kind reverts method hparams seed contexts requests covariances delta statistics "
    "message created fingerprint",
    tables.Evaluation: "revision protocol metrics retention cases created",
    tables.Publication: "revision repo commit kind url account tag unpublished created",
    tables.Sweep: "revision method hparams requests covariances seed trial_count protocol created",
    tables.SweepTrial: "layers changes score metrics seconds error",
}
# Records of these rows begin with the id, under the name of the table.
_NUMBERED = (tables.Trace, tables.Covariance, tables.Evaluation, tables.Publication, tables.Sweep)


def to_record(row: Any, model: str | None = None) -> dict[str, Any]:
    """The fields of a row, and the name of its model."""
    head: dict[str, Any] = {type(row).__name__.lower(): row.id} if isinstance(row, _NUMBERED) else {}
    if model is not None:
        head["model"] = model
    return head | {name: getattr(row, name) for name in _FIELDS[type(row)].split()}


def trace_record(trace: tables.Trace, model: str, results: Sequence[tables.TraceResult]) -> dict[str, Any]:
    """A trace with its results."""
    return to_record(trace, model) | {"results": [_result_record(result) for result in results]}


def _result_record(result: tables.TraceResult) -> dict[str, Any]:
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
