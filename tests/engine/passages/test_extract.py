"""Extraction through a local HTTP endpoint, whose replies have typical mistakes of models."""

import json
from typing import Any

import pytest

from retcon.engine.errors import InputError
from retcon.engine.passages.extraction.chat import CachedChat, UnusableReply
from retcon.engine.passages.extraction.endpoint import Endpoint
from retcon.engine.passages.extraction.steps import (
    ExtractedPassage,
    Triple,
    build_template,
    clean_triple,
    disambiguate,
    extract_passage,
    split_into_triples,
    split_text,
)
from retcon.engine.progress import Progress
from retcon.passage_facts import PassageQuestion
from retcon.store.facts.passage_format import Passage, format_passage
from retcon.store.facts.passage_reader import parse_passage
from retcon.tests.helpers.llm_rule import TEXT, rule
from retcon.tests.helpers.stand_in_llm import StandInEndpoint


@pytest.fixture
def extracted(served: StandInEndpoint, endpoint: Endpoint) -> ExtractedPassage:
    served.rule = rule
    return extract_passage(endpoint, "Marta", TEXT)


def test_extract_facts_and_questions(extracted: ExtractedPassage) -> None:
    assert [(one.prompt, one.object) for one in extracted.facts] == [
        ("{} is", "a cellist"),
        ("{} studied at", "the Sibelius Academy"),
        ("{} founded", "Nordic Strings"),
        ("{} set up the firm", "Aurora Ltd"),
        ("{} founded two firms,", "Nordic Strings and Aurora Ltd"),
    ]
    assert extracted.questions == [
        PassageQuestion("What is Marta Lindqvist?", ("a cellist",)),
        PassageQuestion("What did Marta Lindqvist found?", ("Nordic Strings", "Aurora Ltd")),
    ]


def test_paraphrases_are_templates_before_the_object(extracted: ExtractedPassage) -> None:
    for fact in extracted.facts:
        templates = [fact.prompt, *fact.train_paraphrases, *fact.eval_paraphrases]
        assert len(set(templates)) == len(templates) == 1 + 8 + 2
        assert all(one.count("{}") == 1 and fact.object not in one for one in templates)
        assert fact.eval_paraphrases == ("In the year 2 {} had", "Question: What did {} have? Answer:")
        assert "As is well known, {} has to do with" in fact.train_paraphrases
        assert "Question: What has {} to do with? Answer: She has to do with" in fact.train_paraphrases


def test_extracted_passage_round_trips_as_file(extracted: ExtractedPassage) -> None:
    passage = Passage("Marta", TEXT, tuple(extracted.facts), tuple(extracted.questions))
    assert parse_passage(format_passage(passage), "p") == passage


def test_interrupted_extraction_resumes_from_cache(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = rule
    cache: dict[str, Any] = {}
    reports: list[Progress] = []

    class Interrupted(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        reports.append(progress)
        if progress.activity == "writing paraphrases" and progress.done == 2:
            raise Interrupted

    with pytest.raises(Interrupted):
        extract_passage(CachedChat(endpoint, cache), "Marta", TEXT, interrupt)
    before = len(served.requests)
    cache = json.loads(json.dumps(cache))
    metered = CachedChat(endpoint, cache)
    again = extract_passage(metered, "Marta", TEXT, reports.append)
    assert len(served.requests) == len(cache)
    assert len(served.requests) > before
    assert again == extract_passage(endpoint, "Marta", TEXT)
    assert all(one.total is not None and one.done <= one.total for one in reports)


def test_invalid_and_empty_replies(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = lambda _system, _user: {
        "facts": [{"sentence": 1, "subject": " ", "relation": "is", "object": "b"}]
    }
    with pytest.raises(UnusableReply, match=r"at 'facts\.0\.subject': .*must not be empty"):
        split_into_triples(endpoint, ["A is b."])
    served.rule = lambda system, _user: {"sentences": []} if system.startswith("Rewrite") else {"facts": []}
    with pytest.raises(InputError, match="found no facts in the text"):
        extract_passage(endpoint, "", TEXT)
    with pytest.raises(InputError, match="The text is empty"):
        extract_passage(endpoint, "", " \n")


def test_disambiguate_keeps_relations_without_reply(served: StandInEndpoint, endpoint: Endpoint) -> None:
    served.rule = lambda _system, _user: {"relations": []}
    triples = [Triple("A", "is", "b"), Triple("A", "is", "c")]
    assert disambiguate(endpoint, triples) == triples


@pytest.mark.parametrize(
    ("triple", "cleaned"),
    [
        (("A", "wrote the", "Notes ."), ("wrote", "the Notes")),
        (("A", "A wrote", "Notes"), ("wrote", "Notes")),
        (("A", "wrote Notes", "Notes"), ("wrote", "Notes")),
        (("A", "the", "Notes"), ("the", "Notes")),
        (("A", "is", "..."), ("is", "...")),
    ],
)
def test_clean_triple(triple: tuple[str, str, str], cleaned: tuple[str, str]) -> None:
    one = clean_triple(Triple(*triple))
    assert (one.relation, one.object) == cleaned


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
def test_build_template(sentence: str, template: str | None) -> None:
    assert build_template(sentence, "Ann", "Rome") == template


def test_split_text_at_sentence_ends() -> None:
    paragraph = "It is a fine day in the north. " * 70
    text = f"{paragraph}\n\nShort.\n\n{'x' * 4000}"
    parts = split_text(text)
    assert all(len(part) <= 1500 for part in parts[:-1])
    assert [part.endswith((".", "x")) for part in parts] == [True] * len(parts)
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert split_text("One.\nTwo.") == ["One.\nTwo."]
