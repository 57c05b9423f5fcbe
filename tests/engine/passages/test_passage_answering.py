"""Answers with each baseline: the prompt, the end of a reply, and the parts that count."""

import copy
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.errors import InputError
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.memory import peak_memory, reset_peak_memory
from retcon.engine.passages import answering
from retcon.engine.passages.answering import Baseline, answer_questions
from retcon.passage_facts import PassageQuestion
from retcon.tests.helpers.plain_evaluation import plain_completion
from retcon.tests.helpers.tiny_tokenizers import byte_tokenizer
from retcon.tests.helpers.untouched import assert_untouched

TEXT = "Paris is in France. Rome is in Italy. Toyota produced the Camry."
QUESTIONS = [
    PassageQuestion("Paris is located in", ("France", "city")),
    PassageQuestion("he plays football", ("Berlin",)),
]
CHAT = (
    "<s> {% for one in messages %}{{ one.role }} {{ one.content }} {% if one.role == 'assistant' %}<pad>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}she{% endif %}"
)


@pytest.fixture
def llama(decoder_of: Callable[[str], Decoder]) -> Decoder:
    return decoder_of("llama")


def test_plain_prompt_without_context(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    answers = answer_questions(
        llama, words, QUESTIONS, Baseline.without_context("unedited", 3.5), max_new_tokens=6
    )
    assert (answers.baseline, answers.setup_seconds) == ("unedited", 3.5)
    for reply, question in zip(answers.replies, QUESTIONS, strict=True):
        ids = words(f"Question: {question.question}\nAnswer:")["input_ids"]
        assert reply.text == plain_completion(llama, words, ids, 6)
        assert (reply.tokens_in, reply.truncated_tokens) == (len(ids), 0)
        assert reply.seconds > 0 and reply.tokens_out <= 6
        assert reply.ended is (reply.tokens_out < 6)
    assert answers.memory is None or answers.memory > 0
    assert answers.protocol == {"context": "none", "chat_template": False, "max_new_tokens": 6}
    assert_untouched(llama.model)


def test_count_parts_of_answers(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    """Each reply has the number of parts of the answer that it contains, in any case."""
    completion = plain_completion(llama, words, words("Question: Paris\nAnswer:")["input_ids"], 6).split()
    questions = [
        PassageQuestion("Paris", (completion[0], "nobody")),
        PassageQuestion("Paris", (completion[0].upper(), completion[1])),
    ]
    answers = answer_questions(llama, words, questions, Baseline.without_context(), max_new_tokens=6)
    assert [reply.held for reply in answers.replies] == [1, 2]
    one = answers.as_dict()["questions"][0]
    reply = answers.replies[0]
    assert one == {
        "question": "Paris", "answers": [completion[0], "nobody"], "said": " ".join(completion), "held": 1,
        "judge": None,
        "seconds": reply.seconds, "tokens": reply.tokens_in + reply.tokens_out, "tokens_in": reply.tokens_in,
        "ended": reply.ended, "truncated_tokens": 0,
    }  # fmt: skip


def test_chat_template(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    tokenizer = copy.deepcopy(words)
    tokenizer.chat_template = CHAT
    answers = answer_questions(llama, tokenizer, QUESTIONS, Baseline.with_passage(TEXT), max_new_tokens=8)
    content = f"Answer the question from this text.\n\n{TEXT}\n\nQuestion: {QUESTIONS[0].question}"
    ids = tokenizer(f"<s> user {content} she", add_special_tokens=False)["input_ids"]
    expected = plain_completion(llama, tokenizer, ids, 8)
    assert answers.replies[0].tokens_in == len(ids)
    assert answers.replies[0].text == expected
    assert answers.protocol == {"context": "passage", "chat_template": True, "max_new_tokens": 8}
    assert answers.baseline == "prompt"
    plain = answer_questions(
        llama, tokenizer, QUESTIONS[:1], Baseline.with_passage(TEXT), max_new_tokens=8, chat=False
    )
    form = f"{TEXT}\n\nQuestion: {QUESTIONS[0].question}\nAnswer:"
    assert plain.replies[0].tokens_in == len(tokenizer(form)["input_ids"])
    assert plain.protocol["chat_template"] is False


@pytest.mark.parametrize(("chat", "text", "tokens"), [(False, "Rome", 6), (True, "Rome\nno", 9)])
def test_reply_ends_at_line_or_turn(
    llama: Decoder, monkeypatch: pytest.MonkeyPatch, chat: bool, text: str, tokens: int
) -> None:
    """A plain reply ends with its line, a chat reply with the token that the template writes after it."""
    tokenizer = copy.deepcopy(byte_tokenizer())
    tokenizer.chat_template = CHAT if chat else None
    ids = [tokenizer(char)["input_ids"][0] for char in " Rome\nno"] + [
        tokenizer.convert_tokens_to_ids("<pad>")
    ]

    def greedy(_model: object, _ids: list[int]) -> Iterator[int]:
        yield from ids
        yield from count()

    monkeypatch.setattr(answering, "iter_greedy_tokens", greedy)
    [reply] = answer_questions(
        llama, tokenizer, [PassageQuestion("a", ("Rome",))], Baseline.without_context()
    ).replies
    assert (reply.text, reply.tokens_out, reply.ended, reply.held) == (text, tokens, True, 1)


def test_retrieval_baseline(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    text = " ".join(
        f"The {word} is on page {word}." for word in ("Tower", "city", "Camry", "tongue", "Berlin")
    )
    baseline = Baseline.with_retrieval(text, "Book", top=1)
    chunk = "Book: The Camry is on page Camry. The tongue is on page tongue. The Berlin is on page Berlin."
    assert baseline.build_context("Is it the tongue?") == chunk
    assert baseline.setup_seconds > 0
    answers = answer_questions(
        llama, words, [PassageQuestion("Is it the tongue?", ("Rome",))], baseline, max_new_tokens=2
    )
    ids = words(f"{chunk}\n\nQuestion: Is it the tongue?\nAnswer:")["input_ids"]
    assert answers.replies[0].tokens_in == len(ids)
    assert (answers.protocol["context"], answers.protocol["chunks"]) == ("chunks", 1)


def test_context_is_truncated_to_the_window(llama: Decoder, words: PreTrainedTokenizerBase) -> None:
    """The tiny model has a context window of 128 tokens. The end of a longer passage is cut, and counted."""
    text = " ".join(f"w{i}" for i in range(40)) * 5
    whole_prompt = words(f"{text}\n\nQuestion: Paris\nAnswer:")["input_ids"]
    [reply] = answer_questions(
        llama, words, [PassageQuestion("Paris", ("Rome",))], Baseline.with_passage(text), max_new_tokens=8
    ).replies
    assert reply.tokens_in == 120
    assert reply.truncated_tokens == len(whole_prompt) - 120
    with pytest.raises(InputError, match="Shorten the question"):
        answer_questions(
            llama,
            words,
            [PassageQuestion("Paris" + " Paris" * 129, ("Rome",))],
            Baseline.without_context(),
            max_new_tokens=8,
        )
    with pytest.raises(InputError, match="no questions"):
        answer_questions(llama, words, [], Baseline.without_context())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system cannot reset the peak")
def test_peak_memory_after_reset() -> None:
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
