"""Former names of fields inside the records of passages and evaluations, in bundles of earlier versions."""

from typing import Any

from ..validation import rename_fields

_FACT = {"wordings": "train_paraphrases", "held_out": "eval_paraphrases"}
_DRIFT = {
    "kept": "preserved",
    "bleed": "leakage_rate",
    "bleed_first_token": "leakage_rate_first_token",
    "bleeds": "leakage",
}
_KINDS = {"persons": "people", "others": "things", "namesakes": "same_last_name"}
_ANSWERS = {"way": "baseline", "take_in_seconds": "setup_seconds"}
_QUESTION = {"left_out": "truncated_tokens"}


def upgrade_evaluation(record: dict[str, Any]) -> dict[str, Any]:
    """The record with the current names of the fields of its cases."""
    cases = record.get("cases")
    for one in cases if isinstance(cases, list) else []:
        if isinstance(one, dict) and "case" in one:
            one["case"] = rename_fields(one["case"], {"paraphrases": "eval_paraphrases"})
    return record


def upgrade_passage(record: dict[str, Any]) -> dict[str, Any]:
    """The record under the current names of its fields. Values of another type are left for validation."""
    for name, names in (("facts", _FACT), ("answers", _ANSWERS)):
        _rename_each(record, name, names)
    answers = record.get("answers")
    for one in answers if isinstance(answers, list) else []:
        _rename_each(one, "questions", _QUESTION)
    proof = record.get("proof")
    if isinstance(proof, dict) and isinstance(proof.get("drift"), dict):
        drift = rename_fields(proof["drift"], _DRIFT)
        leakage = drift.get("leakage")
        for one in leakage if isinstance(leakage, list) else []:
            if isinstance(one, dict) and one.get("kind") in list(_KINDS):
                one["kind"] = _KINDS[one["kind"]]
        proof["drift"] = drift
    return record


def _rename_each(record: Any, name: str, names: dict[str, str]) -> None:
    """Rename the fields of each record of a list."""
    if isinstance(record, dict) and isinstance(record.get(name), list):
        record[name] = [rename_fields(one, names) for one in record[name]]
