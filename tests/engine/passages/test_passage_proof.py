"""Proof of a passage's edit against plain forward passes. The objects are completions of the tiny model."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from transformers import PreTrainedTokenizerBase

from retcon.engine.errors import InputError
from retcon.engine.evaluation.matching import begins_with
from retcon.engine.model.decoder import Decoder
from retcon.engine.passages.proof import (
    PEOPLE,
    THINGS,
    SideEffects,
    build_leakage_prompts,
    build_proof,
    measure_passage_retention,
    measure_state,
)
from retcon.passage_facts import PassageFact
from retcon.tests.helpers.plain_evaluation import WORDS, forward, plain_completion, shifted

PROMPTS = [f"The {word} is located in" for word in WORDS[:6]]


def first_words(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int) -> list[str]:
    return plain_completion(decoder, tokenizer, tokenizer(prompt)["input_ids"], count).split()


@pytest.fixture
def base(decoder_of: Callable[[str], Decoder]) -> Decoder:
    return decoder_of("llama")


@pytest.fixture
def facts(base: Decoder, words: PreTrainedTokenizerBase) -> list[PassageFact]:
    """Facts whose object the edited model completes wholly, with its first word only, and not at all."""
    edited, _ = shifted(base)
    one = first_words(edited, words, "Eiffel Tower is located in", 2)
    two = first_words(edited, words, "Toyota Camry plays", 2)
    wrong = next(word for word in WORDS if word not in (*one, *two))
    return [
        PassageFact(
            "Eiffel Tower", "{} is located in", " ".join(one), eval_paraphrases=("The city of {} is", "{}")
        ),
        PassageFact("Toyota Camry", "{} plays", f"{two[0]} {wrong}"),
        PassageFact("Toyota Camry", "{} plays football and", wrong),
    ]


def plain_result(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompt: str, object: str
) -> dict[str, Any]:
    """The record of a result, with one pass per token. 10 new tokens are the longest object and 8."""
    ids = tokenizer(prompt)["input_ids"]
    right = []
    for token in tokenizer(object)["input_ids"]:
        right.append(forward(decoder, ids)[-1].argmax().item() == token)
        ids = [*ids, token]
    completion = plain_completion(decoder, tokenizer, tokenizer(prompt)["input_ids"], 10)
    return {
        "first_token": right[0],
        "first_choice": all(right),
        "free": begins_with(completion, object),
        "completion": completion,
    }


def test_facts_before_and_after(
    base: Decoder, words: PreTrainedTokenizerBase, facts: list[PassageFact]
) -> None:
    edited, _ = shifted(base)
    proof = build_proof(edited, words, facts, measure_state(base, words, facts, PROMPTS))
    for fact, record in zip(facts, proof["facts"], strict=True):
        prompt = fact.prompt.replace("{}", fact.subject)
        assert (record["prompt"], record["object"], record["judge"]) == (prompt, fact.object, None)
        assert record["before"] == plain_result(base, words, prompt, fact.object)
        assert record["after"] == plain_result(edited, words, prompt, fact.object)
        for name, decoder in (("held_out", edited), ("held_out_before", base)):
            prompts = [template.replace("{}", fact.subject) for template in fact.eval_paraphrases]
            expected = [{"prompt": one} | plain_result(decoder, words, one, fact.object) for one in prompts]
            assert record[name] == expected
    after = [record["after"] for record in proof["facts"]]
    assert [(one["first_token"], one["first_choice"], one["free"]) for one in after] == [
        (True, True, True), (True, False, False), (False, False, False),
    ]  # fmt: skip
    assert (proof["protocol"]["max_new_tokens"], proof["protocol"]["prompts"]) == (10, 6)


def test_side_effects(base: Decoder, words: PreTrainedTokenizerBase, facts: list[PassageFact]) -> None:
    edited, _ = shifted(base)
    # A fact that leaks: for another subject, its object is the first word of the edited model only.
    leaking = next(
        PassageFact("Eiffel Tower", f"{{}} {verb} in", words_of[1][0])
        for verb in WORDS
        if (words_of := [first_words(one, words, f"Marie Curie {verb} in", 1) for one in (base, edited)])[0]
        != words_of[1]
    )
    facts = [*facts, leaking]
    before = measure_state(base, words, facts, PROMPTS)
    proof = build_proof(edited, words, facts, before)
    effects = proof["drift"]
    preserved, apart = [], []
    for prompt in PROMPTS:
        p, q = (forward(decoder, words(prompt)["input_ids"])[-1] for decoder in (base, edited))
        preserved.append(p.argmax().item() == q.argmax().item())
        apart.append((p.exp() * (p - q)).sum().item())
    assert effects["preserved"] == pytest.approx(sum(preserved) / 6)
    assert effects["kl"] == pytest.approx(sum(apart) / 6, abs=1e-5)
    assert effects["prompts"] == 6
    sums, count = {"before": 0.0, "after": 0.0}, 0
    for row in before.texts.rows:
        count += len(row) - 1
        for name, decoder in (("before", base), ("after", edited)):
            log_p = forward(decoder, row)
            sums[name] -= sum(log_p[i - 1, row[i]].item() for i in range(1, len(row)))
    for name, total in sums.items():
        assert effects[f"perplexity_{name}"] == pytest.approx(math.exp(total / count), rel=1e-5)
    counted = dict.fromkeys(("people", "things", "same_last_name"), (0, 0, 0))
    for kind, prompt, object in build_leakage_prompts(facts):
        old, new = plain_result(base, words, prompt, object), plain_result(edited, words, prompt, object)
        more = (1, *(new[name] and not old[name] for name in ("first_token", "first_choice")))
        counted[kind] = tuple(a + b for a, b in zip(counted[kind], more, strict=True))  # type: ignore[assignment]
    assert effects["leakage"] == [
        {"kind": kind, "pairs": pairs, "first_token": first, "whole": whole}
        for kind, (pairs, first, whole) in counted.items()
    ]
    assert sum(first for _, first, _ in counted.values()) > 0, "nothing leaks"
    unrelated = counted["people"][0] + counted["things"][0]
    assert proof["protocol"]["unrelated_prompts"] == unrelated


def test_unedited_model_has_no_side_effects(
    base: Decoder, words: PreTrainedTokenizerBase, facts: list[PassageFact]
) -> None:
    before = measure_state(base, words, facts)
    assert before.prompts == tuple(before.texts.openings)
    drift = build_proof(base, words, facts, before)["drift"]
    assert (drift["preserved"], drift["kl"], drift["leakage_rate"]) == (1.0, 0.0, 0.0)
    assert drift["perplexity_after"] == drift["perplexity_before"]
    with pytest.raises(InputError, match="no facts"):
        measure_state(base, words, [])


def test_leakage_prompts() -> None:
    """All names but the passage's own subjects, and two names with the same last name for each subject."""
    facts = [PassageFact("Marie Curie", "{} plays", "Rome"), PassageFact("Toyota", "{} is in", "Paris")]
    prompts = build_leakage_prompts(facts)
    assert len(prompts) == 2 * (len(PEOPLE) - 1 + len(THINGS) - 1 + 2)
    assert ("people", "Mahatma Gandhi plays", "Rome") in prompts
    assert ("same_last_name", "Thomas Curie plays", "Rome") in prompts
    assert ("things", "The Eiffel Tower is in", "Paris") in prompts
    assert not any(prompt.startswith(("Marie Curie ", "Toyota ")) for _, prompt, _ in prompts)
    akin = build_leakage_prompts([PassageFact("Pierre Curie", "{} plays", "Rome")])
    assert "Marie Curie plays" not in [prompt for _, prompt, _ in akin]


def test_edit_retention(base: Decoder, words: PreTrainedTokenizerBase, facts: list[PassageFact]) -> None:
    edited, _ = shifted(base)
    retention = measure_passage_retention(edited, words, facts, [0, 2], "r2")
    assert retention == {
        "edit": "r2", "requests": 2, "first_choice": 1, "free": 1,
        "facts": [{"fact": 0, "first_choice": True, "free": True}, {"fact": 2, "first_choice": False, "free": False}],
    }  # fmt: skip


def test_leakage_rate() -> None:
    """The rate counts unrelated subjects only, not those with the same last name."""
    drift = SideEffects(
        0.9, 0.1, 20.0, 21.0, 5, {"people": (8, 2, 1), "things": (4, 1, 1), "same_last_name": (2, 2, 2)}
    )
    record = drift.as_dict()
    assert (record["leakage_rate"], record["leakage_rate_first_token"]) == (
        pytest.approx(2 / 12),
        pytest.approx(3 / 12),
    )
    one = SideEffects(0.9, 0.1, 20.0, 21.0, 5, {"things": (1, 1, 1)})
    assert one.leakage_rate == 1
