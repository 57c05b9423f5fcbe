"""Questions in several ways: what the model is given, where it stops, and what of the answer counts."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
import torch
from retcon.engine.errors import InputError
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.memory import peak_memory, reset_peak_memory
from retcon.engine.passages import answering
from retcon.engine.passages.answering import ask, bare, retrieved, whole
from retcon.tests.helpers.plain_evaluation import plain_completion
from retcon.tests.helpers.tiny_tokenizers import byte_tokenizer
from retcon.tests.helpers.untouched import assert_untouched
from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Asked:
    question: str
    answers: tuple[str, ...]


TEXT = "Paris is in France. Rome is in Italy. Toyota produced the Camry."
QUESTIONS = [Asked("Paris is located in", ("France", "city")), Asked("he plays football", ("Berlin",))]
CHAT = (
    "<s> {% for one in messages %}{{ one.role }} {{ one.content }} {% if one.role == 'assistant' %}<pad>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}she{% endif %}"
)


@pytest.fixture
def llama(decoder_of: Callable[[str], Decoder]) -> Decoder:
    return decoder_of("llama")


def test_the_plain_form(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    found = ask(llama, words, QUESTIONS, bare("unedited", 3.5), limit=6)
    assert (found.way, found.take_in_seconds) == ("unedited", 3.5)
    for reply, asked in zip(found.replies, QUESTIONS, strict=True):
        ids = words(f"Question: {asked.question}\nAnswer:")["input_ids"]
        assert reply.said == plain_completion(llama, words, ids, 6)
        assert (reply.tokens_in, reply.left_out) == (len(ids), 0)
        assert reply.seconds > 0 and reply.tokens_out <= 6
        assert reply.ended is (reply.tokens_out < 6)
    assert found.memory is None or found.memory > 0
    assert "the question alone" in found.protocol and "Answer:" in found.protocol
    assert_untouched(llama.model)


def test_parts_held(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    """One of two parts is half an answer; with every part a question counts as answered."""
    said = plain_completion(llama, words, words("Question: Paris\nAnswer:")["input_ids"], 6).split()
    asked = [Asked("Paris", (said[0], "nobody")), Asked("Paris", (said[0].upper(), said[1]))]
    found = ask(llama, words, asked, bare(), limit=6)
    assert [reply.held for reply in found.replies] == [1, 2]
    assert (found.share, found.full) == (0.75, 1)
    one = found.as_dict()["questions"][0]
    reply = found.replies[0]
    assert one == {
        "question": "Paris", "answers": [said[0], "nobody"], "said": " ".join(said), "held": 1, "judge": None,
        "seconds": reply.seconds, "tokens": reply.tokens_in + reply.tokens_out, "tokens_in": reply.tokens_in,
        "ended": reply.ended, "left_out": 0,
    }  # fmt: skip


def test_a_chat_template_is_used(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    tokenizer = copy.deepcopy(words)
    tokenizer.chat_template = CHAT
    found = ask(llama, tokenizer, QUESTIONS, whole(TEXT), limit=8)
    content = f"Answer the question from this text.\n\n{TEXT}\n\nQuestion: {QUESTIONS[0].question}"
    ids = tokenizer(f"<s> user {content} she", add_special_tokens=False)["input_ids"]
    wanted = plain_completion(llama, tokenizer, ids, 8)
    assert found.replies[0].tokens_in == len(ids)
    assert found.replies[0].said == wanted
    assert "chat template" in found.protocol and found.way == "prompt"
    plain = ask(llama, tokenizer, QUESTIONS[:1], whole(TEXT), limit=8, chat=False)
    form = f"{TEXT}\n\nQuestion: {QUESTIONS[0].question}\nAnswer:"
    assert plain.replies[0].tokens_in == len(tokenizer(form)["input_ids"])
    assert "chat template" not in plain.protocol


@pytest.mark.parametrize(("chat", "said", "tokens"), [(False, "Rome", 6), (True, "Rome\nno", 9)])
def test_where_an_answer_ends(
    llama: Decoder, monkeypatch: pytest.MonkeyPatch, chat: bool, said: str, tokens: int
) -> None:
    """The plain form at the end of its line; a chat turn at the token that the template writes behind a reply."""
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = CHAT if chat else None
    ids = [tokenizer(char)["input_ids"][0] for char in " Rome\nno"] + [
        tokenizer.convert_tokens_to_ids("<pad>")
    ]

    def greedy(_model: object, _ids: list[int]) -> Iterator[int]:
        yield from ids
        yield from count()

    monkeypatch.setattr(answering, "iter_greedy_tokens", greedy)
    [reply] = ask(llama, tokenizer, [Asked("a", ("Rome",))], bare()).replies
    assert (reply.said, reply.tokens_out, reply.ended, reply.held) == (said, tokens, True, 1)


def test_looked_up(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    text = " ".join(
        f"The {word} is on page {word}." for word in ("Tower", "city", "Camry", "tongue", "Berlin")
    )
    way = retrieved(text, "Book", top=1)
    chunk = "Book: The Camry is on page Camry. The tongue is on page tongue. The Berlin is on page Berlin."
    assert way.context("Is it the tongue?") == chunk
    assert way.take_in_seconds > 0
    found = ask(llama, words, [Asked("Is it the tongue?", ("Rome",))], way, limit=2)
    ids = words(f"{chunk}\n\nQuestion: Is it the tongue?\nAnswer:")["input_ids"]
    assert found.replies[0].tokens_in == len(ids)
    assert "the 1 best chunks" in found.protocol


def test_what_does_not_fit(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    """The tiny model reads 128 tokens: of a longer passage the end is left out, and that is told."""
    text = " ".join(f"w{i}" for i in range(40)) * 5
    whole_prompt = words(f"{text}\n\nQuestion: Paris\nAnswer:")["input_ids"]
    [reply] = ask(llama, words, [Asked("Paris", ("Rome",))], whole(text), limit=8).replies
    assert reply.tokens_in == 120
    assert reply.left_out == len(whole_prompt) - 120
    with pytest.raises(InputError, match="ask a shorter one"):
        ask(llama, words, [Asked("Paris " * 130, ("Rome",))], bare(), limit=8)
    with pytest.raises(InputError, match="no question"):
        ask(llama, words, [], bare())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system counts no peak anew")
def test_the_peak_is_of_what_came_after() -> None:
    cpu, size = torch.device("cpu"), 2**26
    reset_peak_memory(cpu)
    before = peak_memory(cpu)
    torch.ones(size, dtype=torch.uint8)
    after = peak_memory(cpu)
    reset_peak_memory(cpu)
    again = peak_memory(cpu)
    assert before is not None and after is not None and again is not None
    assert after - before > 0.9 * size
    assert after - again > 0.9 * size
