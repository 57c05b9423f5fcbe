"""What stuck and what else changed, against whole forward passes; facts are chosen by what the tiny model says."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from retcon.engine.errors import InputError
from retcon.engine.evaluation.matching import begins_with
from retcon.engine.model.decoder import Decoder
from retcon.engine.passages.proof import (
    OTHERS,
    PERSONS,
    Drift,
    Proof,
    Retention,
    look,
    others_prompts,
    prove,
    retained,
)
from retcon.tests.helpers.plain_evaluation import WORDS, forward, plain_completion, shifted
from transformers import PreTrainedTokenizerBase

PROMPTS = [f"The {word} is located in" for word in WORDS[:6]]


@dataclass(frozen=True)
class Stated:
    subject: str
    prompt: str
    object: str
    eval_paraphrases: tuple[str, ...] = ()


def first_words(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int) -> list[str]:
    return plain_completion(decoder, tokenizer, tokenizer(prompt)["input_ids"], count).split()


@pytest.fixture
def base(decoder_of: Callable[[str], Decoder]) -> Decoder:
    return decoder_of("llama")


@pytest.fixture
def stated(base: Decoder, words: PreTrainedTokenizerBase) -> list[Stated]:
    """One that the edited model says whole, one of which it says the first word alone, one that it does not say."""
    edited, _ = shifted(base)
    one = first_words(edited, words, "Eiffel Tower is located in", 2)
    two = first_words(edited, words, "Toyota Camry plays", 2)
    wrong = next(word for word in WORDS if word not in (*one, *two))
    return [
        Stated("Eiffel Tower", "{} is located in", " ".join(one), ("The city of {} is", "{}")),
        Stated("Toyota Camry", "{} plays", f"{two[0]} {wrong}"),
        Stated("Toyota Camry", "{} plays football and", wrong),
    ]


def plainly(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompt: str, object: str) -> dict[str, Any]:
    """The same four things, one pass a token; 10 new tokens are the longest object and 8."""
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


def test_facts_before_and_after(base: Decoder, words: PreTrainedTokenizerBase, stated: list[Stated]) -> None:
    edited, _ = shifted(base)
    proof = prove(edited, words, stated, look(base, words, stated, PROMPTS)).as_dict()
    for fact, found in zip(stated, proof["facts"], strict=True):
        prompt = fact.prompt.replace("{}", fact.subject)
        assert (found["prompt"], found["object"], found["judge"]) == (prompt, fact.object, None)
        assert found["before"] == plainly(base, words, prompt, fact.object)
        assert found["after"] == plainly(edited, words, prompt, fact.object)
        for name, decoder in (("held_out", edited), ("held_out_before", base)):
            wordings = [template.replace("{}", fact.subject) for template in fact.eval_paraphrases]
            wanted = [{"prompt": one} | plainly(decoder, words, one, fact.object) for one in wordings]
            assert found[name] == wanted
    after = [found["after"] for found in proof["facts"]]
    assert [(one["first_token"], one["first_choice"], one["free"]) for one in after] == [
        (True, True, True), (True, False, False), (False, False, False),
    ]  # fmt: skip
    assert "10 new tokens" in proof["protocol"] and "6 other prompts" in proof["protocol"]


def test_what_else_has_changed(base: Decoder, words: PreTrainedTokenizerBase, stated: list[Stated]) -> None:
    edited, _ = shifted(base)
    # One that bleeds: what the edit, and not the base, has another be.
    bleeding = next(
        Stated("Eiffel Tower", f"{{}} {verb} in", said[1][0])
        for verb in WORDS
        if (said := [first_words(one, words, f"Marie Curie {verb} in", 1) for one in (base, edited)])[0]
        != said[1]
    )
    stated = [*stated, bleeding]
    before = look(base, words, stated, PROMPTS)
    proof = prove(edited, words, stated, before)
    found = proof.drift.as_dict()
    kept, apart = [], []
    for prompt in PROMPTS:
        p, q = (forward(decoder, words(prompt)["input_ids"])[-1] for decoder in (base, edited))
        kept.append(p.argmax().item() == q.argmax().item())
        apart.append((p.exp() * (p - q)).sum().item())
    assert found["kept"] == pytest.approx(sum(kept) / 6)
    assert found["kl"] == pytest.approx(sum(apart) / 6, abs=1e-5)
    assert found["prompts"] == 6
    sums, count = {"before": 0.0, "after": 0.0}, 0
    for row in before.texts.rows:
        count += len(row) - 1
        for name, decoder in (("before", base), ("after", edited)):
            log_p = forward(decoder, row)
            sums[name] -= sum(log_p[i - 1, row[i]].item() for i in range(1, len(row)))
    for name, total in sums.items():
        assert found[f"perplexity_{name}"] == pytest.approx(math.exp(total / count), rel=1e-5)
    counted = dict.fromkeys(("persons", "others", "namesakes"), (0, 0, 0))
    for kind, prompt, object in others_prompts(stated):
        old, new = plainly(base, words, prompt, object), plainly(edited, words, prompt, object)
        more = (1, *(new[name] and not old[name] for name in ("first_token", "first_choice")))
        counted[kind] = tuple(a + b for a, b in zip(counted[kind], more, strict=True))  # type: ignore[assignment]
    assert found["bleeds"] == [
        {"kind": kind, "pairs": pairs, "first_token": first, "whole": whole}
        for kind, (pairs, first, whole) in counted.items()
    ]
    assert sum(first for _, first, _ in counted.values()) > 0, "the test would see nothing"
    strangers = counted["persons"][0] + counted["others"][0]
    assert f"bleed: of {strangers} prompts" in proof.protocol


def test_nothing_changes_by_itself(
    base: Decoder, words: PreTrainedTokenizerBase, stated: list[Stated]
) -> None:
    before = look(base, words, stated)
    assert before.prompts == tuple(before.texts.openings)
    drift = prove(base, words, stated, before).drift
    assert (drift.kept, drift.kl, drift.bleed) == (1.0, 0.0, 0.0)
    assert drift.perplexity_after == drift.perplexity_before
    with pytest.raises(InputError, match="no fact"):
        look(base, words, [])


def test_names_of_others() -> None:
    """Everyone but the passage's own subjects; of a subject's last word two more have it."""
    facts = [Stated("Marie Curie", "{} plays", "Rome"), Stated("Toyota", "{} is in", "Paris")]
    found = others_prompts(facts)
    assert len(found) == 2 * (len(PERSONS) - 1 + len(OTHERS) - 1 + 2)
    assert ("persons", "Mahatma Gandhi plays", "Rome") in found
    assert ("namesakes", "Thomas Curie plays", "Rome") in found
    assert ("others", "The Eiffel Tower is in", "Paris") in found
    assert not any(prompt.startswith(("Marie Curie ", "Toyota ")) for _, prompt, _ in found)
    akin = others_prompts([Stated("Pierre Curie", "{} plays", "Rome")])
    assert "Marie Curie plays" not in [prompt for _, prompt, _ in akin]


def test_retention(base: Decoder, words: PreTrainedTokenizerBase, stated: list[Stated]) -> None:
    edited, _ = shifted(base)
    found = retained(edited, words, stated, [0, 2], "r2")
    assert found == Retention("r2", ((0, True, True), (2, False, False)))
    assert found.as_dict() == {
        "edit": "r2", "requests": 2, "first_choice": 1, "free": 1,
        "facts": [{"fact": 0, "first_choice": True, "free": True}, {"fact": 2, "first_choice": False, "free": False}],
    }  # fmt: skip


def test_the_share_that_bled() -> None:
    """Namesakes are told apart: who bears the subject's name is no stranger to it."""
    drift = Drift(
        0.9, 0.1, 20.0, 21.0, 5, {"persons": (8, 2, 1), "others": (4, 1, 1), "namesakes": (2, 2, 2)}
    )
    made = Proof("so", (), (), (), drift).as_dict()["drift"]
    assert (made["bleed"], made["bleed_first_token"]) == (pytest.approx(2 / 12), pytest.approx(3 / 12))
    one = Drift(0.9, 0.1, 20.0, 21.0, 5, {"others": (1, 1, 1)})
    assert one.bleed == 1
