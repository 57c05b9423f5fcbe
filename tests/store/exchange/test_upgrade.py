"""Records of passages and evaluations of earlier versions load under their current names."""

from retcon.store.exchange.upgrade import upgrade_evaluation, upgrade_passage

FORMER = {
    "facts": [{"subject": "Marta", "wordings": ["{} was a"], "held_out": ["{} is a"]}],
    "proof": {
        "facts": [],
        "drift": {
            "kept": 0.9,
            "bleed": 0.1,
            "bleed_first_token": 0.2,
            "bleeds": [{"kind": "persons", "pairs": 4}, {"kind": "namesakes", "pairs": 2}],
        },
    },
    "answers": [{"way": "edited", "take_in_seconds": 2.0, "questions": [{"said": "x", "left_out": 0}]}],
}
CURRENT = {
    "facts": [{"subject": "Marta", "train_paraphrases": ["{} was a"], "eval_paraphrases": ["{} is a"]}],
    "proof": {
        "facts": [],
        "drift": {
            "preserved": 0.9,
            "leakage_rate": 0.1,
            "leakage_rate_first_token": 0.2,
            "leakage": [{"kind": "people", "pairs": 4}, {"kind": "same_last_name", "pairs": 2}],
        },
    },
    "answers": [
        {"baseline": "edited", "setup_seconds": 2.0, "questions": [{"said": "x", "truncated_tokens": 0}]}
    ],
}


def test_former_names_of_a_passage_record() -> None:
    assert upgrade_passage(FORMER) == CURRENT


def test_current_names_stay() -> None:
    assert upgrade_passage(CURRENT) == CURRENT


def test_former_names_of_the_cases_of_an_evaluation() -> None:
    current = {"cases": [{"case": {"prompt": "x", "eval_paraphrases": ["y"]}}]}
    assert upgrade_evaluation({"cases": [{"case": {"prompt": "x", "paraphrases": ["y"]}}]}) == current
    assert upgrade_evaluation(current) == current
    malformed = {"cases": [None, {"case": 1}, {}]}
    assert upgrade_evaluation(malformed) == malformed


def test_malformed_values_are_left_for_validation() -> None:
    record = {"facts": 1, "answers": [None, {"questions": "x"}], "proof": {"drift": []}}
    assert upgrade_passage(record) == record
