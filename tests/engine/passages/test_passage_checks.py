"""Checks of facts by their text, their tokens and their keys."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.edits.method import Request
from retcon.engine.model.decoder import Decoder
from retcon.engine.passages.checks import Problem, check_facts
from retcon.engine.passages.key_checks import check_keys, check_tokens
from retcon.passage_facts import PassageFact
from retcon.tests.helpers.families import FAMILIES

GOOD = PassageFact(
    "Marta Lindqvist",
    "{} is a professional",
    "cellist",
    ("{} earns her living as a",),
    ("By trade, {} is a",),
)
STUDIED = PassageFact(
    "Marta Lindqvist", "{} studied at", "the Sibelius Academy", ("{} was at",), ("{} went to",)
)


def problems_of(*facts: PassageFact) -> list[tuple[int, str, str]]:
    return [(one.fact, one.severity, one.kind) for one in check_facts(facts)]


def test_good_facts_have_no_problems() -> None:
    assert check_facts([GOOD, STUDIED, replace(STUDIED, subject="Eva Berg")]) == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"train_paraphrases": ("{}, a Cellist, is a",)}, [("warning", "object-in-prompt")]),
        ({"train_paraphrases": ("{} of the cellists is a",)}, []),
        ({"object": "a cellist"}, []),
        ({"train_paraphrases": ()}, [("warning", "no-train-paraphrases")]),
        ({"eval_paraphrases": ()}, [("warning", "no-eval-paraphrases")]),
    ],
)
def test_problems_of_one_fact(changed: dict[str, object], expected: list[tuple[str, str]]) -> None:
    assert problems_of(replace(GOOD, **changed)) == [(0, *one) for one in expected]  # type: ignore[arg-type]


def test_equal_prompts_are_errors() -> None:
    other = replace(
        GOOD,
        object="teacher",
        train_paraphrases=("{} is at heart a",),
        eval_paraphrases=("{} became a",),
    )
    problems = check_facts([STUDIED, GOOD, other])
    assert [(one.fact, one.severity, one.kind, one.others) for one in problems] == [
        (1, "error", "same-prompt", (2,)),
        (2, "error", "same-prompt", (1,)),
    ]
    assert "fact 3 has the same prompt 'Marta Lindqvist is a professional'" in problems[0].message
    # The same text with another boundary between subject and relation.
    cut = replace(other, subject="Marta", prompt="{} Lindqvist is a professional")
    assert problems_of(GOOD, cut) == [(0, "error", "same-prompt"), (1, "error", "same-prompt")]
    again = replace(other, object="Cellist")
    assert problems_of(GOOD, again) == [(0, "error", "duplicate"), (1, "error", "duplicate")]


def test_objects_that_are_not_in_the_passage() -> None:
    text = "Marta Lindqvist, a Cellist, was at the old Sibelius\nAcademy."
    assert check_facts([GOOD, STUDIED], text) == []
    assert [one.kind for one in check_facts([GOOD, STUDIED], "Marta, a cello player.")] == [
        "object-not-in-text"
    ] * 2


def test_paraphrases_shared_by_two_facts() -> None:
    other = replace(STUDIED, train_paraphrases=("By trade, {} is a",))
    # Fact 2 trains on the evaluation paraphrase of fact 1, with another object.
    assert problems_of(GOOD, other) == [
        (0, "error", "eval-paraphrase-trained"),
        (0, "error", "same-paraphrase"),
        (1, "error", "same-paraphrase"),
    ]
    other = replace(STUDIED, train_paraphrases=("{} is a professional",))
    assert problems_of(GOOD, other) == [(0, "error", "same-paraphrase"), (1, "error", "same-paraphrase")]


def test_messages_are_printable() -> None:
    object = "\u202e" + "x" * 200
    bad = replace(GOOD, prompt=f"{{}} {object} is", object=object)
    other = replace(GOOD, prompt=bad.prompt, eval_paraphrases=())
    messages = [one.message for one in check_facts([bad, other], "\u202e")]
    assert messages and all(message.isprintable() and len(message) < 400 for message in messages)


CITY = PassageFact("The Eiffel Tower", "{} is located in the city of", "Paris")
CAMRY = PassageFact("Camry", "Toyota {} is produced by", "Toyota")


def kinds(problems: Sequence[Problem]) -> list[tuple[int, str, tuple[int, ...]]]:
    return [(one.fact, one.kind, one.others) for one in problems]


def test_check_tokens(words: PreTrainedTokenizerBase) -> None:
    facts = [
        CITY,
        replace(CITY, object="Paris " * 10 + "Paris"),
        replace(CITY, object="\u200b"),
    ]
    problems = check_tokens(facts, words)
    assert [(one.fact, one.kind) for one in problems] == [(1, "long-object")]
    assert "has 11 tokens, and edits are reliable up to 10" in problems[0].message
    assert kinds(check_tokens(facts, words, max_tokens=11)) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_keys_are_found_in_every_family(
    family: str, decoder_of: Callable[[str], Decoder], words_after_start: PreTrainedTokenizerBase
) -> None:
    facts = [
        CITY,
        CAMRY,
        replace(CITY, prompt="{} was born in", object="Rome"),
    ]
    earlier = [Request("Camry", "Toyota {} and then", "Rome"), Request("Camry", "you Toyota {} a", "Rome")]
    decoder = decoder_of(family)
    for method in ("rome", "memit"):
        problems = check_keys(facts, decoder, words_after_start, 1, method, earlier)
        equal = [one for one in problems if one.kind == "equal-key"]
        assert kinds(equal) == [(0, "equal-key", (2,)), (1, "equal-key", ()), (2, "equal-key", (0,))]
        assert "that of fact 3," in equal[0].message and "'Toyota Camry and then'" in equal[1].message
    assert not [one for one in check_keys(facts, decoder, words_after_start, 1, "joint") if "key" in one.kind]


def test_sinks(own_decoder_of: Callable[..., Decoder], words: PreTrainedTokenizerBase) -> None:
    decoder = own_decoder_of("llama")
    facts = [CITY, replace(CAMRY, prompt="{} is produced by the"), replace(CAMRY, prompt="Toyota {} is")]
    assert "sink" not in str(check_keys(facts, decoder, words, 1, "rome"))
    ids = words("Camry the")["input_ids"]
    with torch.no_grad():
        decoder.embedding.weight[ids] *= 60
    problems = check_keys(facts, decoder, words, 1, "rome")
    sinks = [one for one in problems if one.kind.startswith("sink")]
    assert [(one.fact, one.kind) for one in sinks] == [(1, "sink-key"), (1, "sink-end"), (2, "sink-key")]
    assert "ends on 'the'" in sinks[1].message and "read at 'Camry'" in sinks[0].message
    joint = check_keys(facts, decoder, words, 1, "joint")
    assert [(one.fact, one.kind) for one in joint] == [(1, "sink-end")]
