"""Answers of a model to a passage's questions, with a baseline's context before each question.

If the tokenizer has a chat template, a question is a user turn. Otherwise the prompt is `Question: ... Answer:`. Each
question runs alone, so its time is that of one question.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from transformers import PreTrainedTokenizerBase

from ...passage_facts import PassageQuestion
from ..errors import InputError
from ..evaluation.matching import contains_phrase
from ..model.decoder import Decoder
from ..model.generation import find_end_tokens, iter_greedy_tokens
from ..model.memory import peak_memory, reset_peak_memory
from ..model.tokens import decode_ids, encode_user_turn, find_turn_end
from ..progress import Progress, Report, silent
from .retrieval import CHUNK_SENTENCES, STRIDE, TOP, Reranker, Retriever, build_chunks

MAX_NEW_TOKENS = 64
_PLAIN = "Question: {question}\nAnswer:"
_CHAT_WITH_CONTEXT = "Answer the question from this text.\n\n{context}\n\nQuestion: {question}"


@dataclass(frozen=True)
class Baseline:
    """A source of context for questions. `build_context(question)` is the text before a question, or empty.

    `protocol` are its settings. `setup_seconds` is the time that preparing the passage took.
    """

    name: str
    protocol: dict[str, Any]
    build_context: Callable[[str], str]
    setup_seconds: float = 0.0

    @classmethod
    def without_context(cls, name: str = "bare", setup_seconds: float = 0.0) -> "Baseline":
        """The question alone. For edited weights, `setup_seconds` is the time that the edit took."""
        return cls(name, {"context": "none"}, lambda _question: "", setup_seconds)

    @classmethod
    def with_passage(cls, text: str, name: str = "prompt") -> "Baseline":
        """Use the whole passage as the context before each question."""
        return cls(name, {"context": "passage"}, lambda _question: text)

    @classmethod
    def with_retrieval(
        cls, text: str, title: str, *, rerank: Reranker | None = None, top: int = TOP, name: str = "retrieval"
    ) -> "Baseline":
        """The passage's best chunks for a question before it, best first."""
        begin = time.perf_counter()
        retriever = Retriever(build_chunks(text, title), rerank)
        seconds = time.perf_counter() - begin
        protocol = {
            "context": "chunks",
            "chunks": top,
            "chunk_sentences": CHUNK_SENTENCES,
            "stride": STRIDE,
            "reranked": rerank is not None,
        }

        def build_context(question: str) -> str:
            return "\n\n".join(retriever.search(question, top))

        return cls(name, protocol, build_context, seconds)


@dataclass(frozen=True)
class Reply:
    """A model's reply to a question, and the number of the answer's parts that it contains.

    `ended` is False if the reply reached its token limit. `truncated_tokens` is the number of tokens of the context
    that did not fit into the model's context window.
    """

    question: str
    answers: tuple[str, ...]
    text: str
    held: int
    seconds: float
    tokens_in: int
    tokens_out: int
    ended: bool
    truncated_tokens: int

    def as_dict(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "answers": list(self.answers),
            "said": self.text,
            "held": self.held,
            "judge": None,
            "seconds": self.seconds,
            "tokens": self.tokens_in + self.tokens_out,
            "tokens_in": self.tokens_in,
            "ended": self.ended,
            "truncated_tokens": self.truncated_tokens,
        }


@dataclass(frozen=True)
class BaselineAnswers:
    """All replies of one baseline. `memory` is the peak in bytes, or None if it is unknown."""

    baseline: str
    protocol: dict[str, Any]
    setup_seconds: float
    memory: int | None
    replies: tuple[Reply, ...]

    def as_dict(self) -> dict[str, Any]:
        return {
            "baseline": self.baseline,
            "protocol": self.protocol,
            "setup_seconds": self.setup_seconds,
            "memory": self.memory,
            "questions": [reply.as_dict() for reply in self.replies],
        }


def answer_questions(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[PassageQuestion],
    baseline: Baseline,
    max_new_tokens: int = MAX_NEW_TOKENS,
    report: Report = silent,
    *,
    chat: bool = True,
) -> BaselineAnswers:
    """Answer each question greedily, to the end of the turn (without chat: of the line) or `max_new_tokens` tokens.

    If `chat` is False, the chat template is not used.

    Raises:
        InputError: there are no questions, or one does not fit into the model's context window.
        StopRequested: raised by `report`.
    """
    if not questions:
        raise InputError("There are no questions. Add some to the passage.")
    answerer = _Answerer(decoder, tokenizer, baseline, max_new_tokens, chat and bool(tokenizer.chat_template))
    answerer.warm_up(questions[0])
    reset_peak_memory(decoder.device)
    replies = []
    for number, question in enumerate(questions):
        report(Progress(number, len(questions), "questions", "answering", baseline.name))
        replies.append(answerer.answer(question))
    report(Progress(len(questions), len(questions), "questions", "answering", baseline.name))
    memory = peak_memory(decoder.device)
    return BaselineAnswers(baseline.name, answerer.protocol, baseline.setup_seconds, memory, tuple(replies))


class _Answerer:
    """One model with one baseline."""

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: PreTrainedTokenizerBase,
        baseline: Baseline,
        max_new_tokens: int,
        chat: bool,
    ) -> None:
        self._model, self._tokenizer, self._baseline = decoder.model, tokenizer, baseline
        self._max_new_tokens, self._chat = max_new_tokens, chat
        self._ends = find_end_tokens(self._model, tokenizer) | ({tokenizer.eos_token_id} - {None})
        if self._chat:
            self._ends |= set(find_turn_end(tokenizer))
        self._window: int | None = getattr(self._model.config, "max_position_embeddings", None)

    @property
    def protocol(self) -> dict[str, Any]:
        rules = {"chat_template": self._chat, "max_new_tokens": self._max_new_tokens}
        return self._baseline.protocol | rules

    def warm_up(self, question: PassageQuestion) -> None:
        """Generate one token, so that the first question's time does not include one-time costs."""
        next(iter_greedy_tokens(self._model, self._build_prompt(question.question)[0]))

    def answer(self, question: PassageQuestion) -> Reply:
        begin = time.perf_counter()
        ids, truncated = self._build_prompt(question.question)
        new_ids: list[int] = []
        ended = False
        for token in islice(iter_greedy_tokens(self._model, ids), self._max_new_tokens):
            new_ids.append(token)
            if token in self._ends or (not self._chat and "\n" in self._decode(new_ids).lstrip()):
                ended = True
                break
        text = self._decode(new_ids).strip()
        if not self._chat:
            text = text.partition("\n")[0].rstrip()
        seconds = time.perf_counter() - begin
        return Reply(
            question=question.question,
            answers=question.answers,
            text=text,
            held=sum(contains_phrase(text, part) for part in question.answers),
            seconds=seconds,
            tokens_in=len(ids),
            tokens_out=len(new_ids),
            ended=ended,
            truncated_tokens=truncated,
        )

    def _decode(self, ids: list[int]) -> str:
        return decode_ids(self._tokenizer, ids)

    def _build_prompt(self, question: str) -> tuple[list[int], int]:
        """The prompt's token ids, and the number of tokens that were cut from the end of the context."""
        context = self._baseline.build_context(question)
        ids, truncated = self._encode(question, context), 0
        while context and (excess := self._count_excess(ids)) > 0:
            context, dropped = self._truncate(context, excess)
            truncated += dropped
            ids = self._encode(question, context)
        if self._count_excess(ids) > 0:
            raise InputError(
                f"The question {question!r} and {self._max_new_tokens} tokens of answer do not fit into the model's "
                f"context window of {self._window} tokens. Shorten the question."
            )
        return ids, truncated

    def _count_excess(self, ids: list[int]) -> int:
        return 0 if self._window is None else len(ids) + self._max_new_tokens - self._window

    def _encode(self, question: str, context: str) -> list[int]:
        if self._chat:
            message = _CHAT_WITH_CONTEXT.format(context=context, question=question) if context else question
            return encode_user_turn(self._tokenizer, message)
        text = (f"{context}\n\n" if context else "") + _PLAIN.format(question=question)
        return list(self._tokenizer(text)["input_ids"])

    def _truncate(self, context: str, excess: int) -> tuple[str, int]:
        """The context without its last `excess` tokens, and the number of tokens that were cut."""
        encoded = self._tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
        offsets = encoded["offset_mapping"]
        left = max(0, len(offsets) - excess)
        return context[: offsets[left - 1][1]] if left else "", len(offsets) - left
