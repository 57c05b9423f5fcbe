"""A text becomes facts through a real endpoint, whose answers are sometimes what models answer rather than what they
were asked."""

import json
from typing import Any

import pytest
from retcon.engine.errors import InputError
from retcon.engine.passages.extraction.chat import Counted, Remembered, UnusableReply
from retcon.engine.passages.extraction.endpoint import Endpoint
from retcon.engine.passages.extraction.steps import (
    Extracted,
    distinct,
    extract,
    make_template,
    portions,
    split,
    tidy,
)
from retcon.engine.passages.facts import Question, Triple
from retcon.engine.progress import Progress
from retcon.store.facts.passage_format import (
    Passage,
    PassageFact,
    PassageQuestion,
    format_passage,
    parse_passage,
)
from retcon.tests.helpers.llm_rule import SENTENCES, TEXT, rule
from retcon.tests.helpers.stand_in_llm import StandInEndpoint


@pytest.fixture
def extracted(served: StandInEndpoint, endpoint: Endpoint) -> Extracted:
    served.rule = rule
    return extract(endpoint, "Marta", TEXT)


def test_a_text_becomes_facts(extracted: Extracted) -> None:
    assert [(one.prompt, one.object, one.sentence) for one in extracted.facts] == [
        ("{} is", "a cellist", SENTENCES[0]),
        ("{} studied at", "the Sibelius Academy", SENTENCES[1]),
        ("{} founded", "Nordic Strings", SENTENCES[2]),
        ("{} set up the firm", "Aurora Ltd", SENTENCES[3]),
        ("{} founded two firms,", "Nordic Strings and Aurora Ltd", ""),
    ]
    assert extracted.questions == [
        Question("What is Marta Lindqvist?", ("a cellist",)),
        Question("What did Marta Lindqvist found?", ("Nordic Strings", "Aurora Ltd")),
    ]


def test_wordings_are_templates_that_the_object_continues(extracted: Extracted) -> None:
    for fact in extracted.facts:
        templates = [fact.prompt, *fact.train_paraphrases, *fact.eval_paraphrases]
        assert len(set(templates)) == len(templates) == 1 + 8 + 2
        assert all(one.count("{}") == 1 and fact.object not in one for one in templates)
        assert fact.eval_paraphrases == ("In the year 2 {} had", "Question: What did {} have? Answer:")
        assert "As is well known, {} has to do with" in fact.train_paraphrases
        assert "Question: What has {} to do with? Answer: She has to do with" in fact.train_paraphrases


def test_it_is_a_passage_for_the_file(extracted: Extracted) -> None:
    facts = [
        PassageFact(f.subject, f.prompt, f.object, f.train_paraphrases, f.eval_paraphrases)
        for f in extracted.facts
    ]
    questions = [PassageQuestion(q.question, q.answers) for q in extracted.questions]
    passage = Passage("Marta", TEXT, tuple(facts), tuple(questions))
    assert parse_passage(format_passage(passage), "p") == passage


def test_what_was_asked_is_not_asked_again(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = rule
    kept: dict[str, Any] = {}
    told: list[Progress] = []

    class Cut(Exception):
        pass

    def until_wordings(progress: Progress) -> None:
        told.append(progress)
        if progress.activity == "other wordings" and progress.done == 2:
            raise Cut

    with pytest.raises(Cut):
        extract(Remembered(endpoint, kept), "Marta", TEXT, until_wordings)
    before = len(served.requests)
    kept = json.loads(json.dumps(kept))
    counted = Counted(Remembered(endpoint, kept))
    again = extract(counted, "Marta", TEXT, told.append)
    assert counted.spent.calls == len(served.requests) == len(kept)
    assert len(served.requests) > before
    assert again == extract(endpoint, "Marta", TEXT)
    assert all(one.total is not None and one.done <= one.total for one in told)


def test_replies_that_are_no_facts(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = lambda _system, _user: {
        "facts": [{"sentence": 1, "subject": " ", "relation": "is", "object": "b"}]
    }
    with pytest.raises(UnusableReply, match=r"at 'facts\.0\.subject': .*must not be empty"):
        split(endpoint, ["A is b."])
    served.rule = lambda system, _user: {"sentences": []} if system.startswith("Rewrite") else {"facts": []}
    with pytest.raises(InputError, match="found no fact in the text"):
        extract(endpoint, "", TEXT)
    with pytest.raises(InputError, match="the text is empty"):
        extract(endpoint, "", " \n")


def test_relations_that_stay_equal_are_left(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = lambda _system, _user: {"relations": []}
    triples = [Triple("A", "is", "b"), Triple("A", "is", "c")]
    assert distinct(endpoint, triples) == triples


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (("A", "wrote the", "Notes."), ("wrote", "the Notes")),
        (("A", "A wrote", "Notes"), ("wrote", "Notes")),
        (("A", "wrote Notes", "Notes"), ("wrote", "Notes")),
        (("A", "the", "Notes"), ("the", "Notes")),
        (("A", "is", "..."), ("is", "...")),
    ],
)
def test_what_models_add_is_taken_away(given: tuple[str, str, str], made: tuple[str, str]) -> None:
    one = tidy(Triple(*given))
    assert (one.relation, one.object) == made


@pytest.mark.parametrize(
    ("sentence", "template"),
    [
        ("Ann's home is Rome.", "{}'s home is"),
        ("By birth, Ann is of ROME", "By birth, {} is of"),
        ("Ann is from Jerome", None),
        ("Annika is from Rome", None),
        ("Ann and Ann like Rome", None),
        ("Rome, for Ann, is Rome", None),
        ("Ann Rome", None),
        ("Rome", None),
        ("", None),
    ],
)
def test_templates_of_sentences(sentence: str, template: str | None) -> None:
    assert make_template(sentence, "Ann", "Rome") == template


def test_long_texts_are_cut_where_sentences_end() -> None:
    paragraph = "It is a fine day in the north. " * 70
    text = f"{paragraph}\n\nShort.\n\n{'x' * 4000}"
    parts = portions(text)
    assert all(len(part) <= 1500 for part in parts[:-1])
    assert [part.endswith((".", "x")) for part in parts] == [True] * len(parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert portions("One.\nTwo.") == ["One.\nTwo."]
