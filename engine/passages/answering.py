"""Questions put to a model in several ways: as it is, with the whole passage before them, or with what was looked up.

A model whose tokenizer has a chat template is asked in a user turn, any other in the form `Question: ... Answer:`. Each
question is asked alone, so that its seconds are its own.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any, Protocol

from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..evaluation.matching import contains_phrase
from ..model.decoder import Decoder
from ..model.generation import find_end_tokens, iter_greedy_tokens
from ..model.memory import peak_memory, reset_peak_memory
from ..model.tokens import decode_ids, encode_user_turn, find_turn_end
from ..progress import Progress, Report, silent
from .retrieval import SENTENCES, STRIDE, TOP, Rerank, Retriever, chunks

LIMIT = 64
_PLAIN = "Question: {question}\nAnswer:"
_PLAIN_WITH = "{context}\n\nQuestion: {question}\nAnswer:"
_CHAT_WITH = "Answer the question from this text.\n\n{context}\n\nQuestion: {question}"


class Question(Protocol):
    """What is asked, and the parts that a full answer holds: at least one."""

    @property
    def question(self) -> str: ...

    @property
    def answers(self) -> Sequence[str]: ...


@dataclass(frozen=True)
class Way:
    """How questions are put: `context(question)` is the text that stands before one, or nothing.

    `take_in_seconds` is what it took to make the passage ready for that.
    """

    name: str
    rule: str
    context: Callable[[str], str]
    take_in_seconds: float = 0.0


def bare(name: str = "bare", take_in_seconds: float = 0.0) -> Way:
    """The model as it is, whatever its weights; `take_in_seconds` is what writing the passage into them took."""
    return Way(name, "the question alone", lambda _question: "", take_in_seconds)


def whole(text: str, name: str = "prompt") -> Way:
    """The whole passage before each question."""
    return Way(name, "the whole passage before the question", lambda _question: text)


def retrieved(
    text: str, title: str, *, rerank: Rerank | None = None, top: int = TOP, name: str = "retrieval"
) -> Way:
    """The chunks of the passage that fit a question best, best first, before it."""
    begin = time.perf_counter()
    retriever = Retriever(chunks(text, title), rerank)
    seconds = time.perf_counter() - begin
    rule = (
        f"the {top} best chunks before the question, best first: {SENTENCES} sentences each, stride {STRIDE}, the title"
        f" in front, by BM25{' and ranked again by the likelihood of the question after the chunk' if rerank else ''}"
    )

    def context(question: str) -> str:
        return "\n\n".join(one.chunk for one in retriever.search(question, top))

    return Way(name, rule, context, seconds)


@dataclass(frozen=True)
class Reply:
    """What a model said to a question, and how many of the answer's parts are in it.

    `ended` is False where the limit cut it off; `left_out` tokens of the context did not fit into the model's window.
    """

    question: str
    answers: tuple[str, ...]
    said: str
    held: int
    seconds: float
    tokens_in: int
    tokens_out: int
    ended: bool
    left_out: int

    @property
    def share(self) -> float:
        """The share of the parts that is held."""
        return self.held / len(self.answers)

    def as_dict(self) -> dict[str, Any]:
        return {
            "question": self.question,
            "answers": list(self.answers),
            "said": self.said,
            "held": self.held,
            "judge": None,
            "seconds": self.seconds,
            "tokens": self.tokens_in + self.tokens_out,
            "tokens_in": self.tokens_in,
            "ended": self.ended,
            "left_out": self.left_out,
        }


@dataclass(frozen=True)
class Answers:
    """All replies of one way. `memory` is the most that was held while asking, bytes; None where nobody says."""

    way: str
    protocol: str
    take_in_seconds: float
    memory: int | None
    replies: tuple[Reply, ...]

    @property
    def share(self) -> float:
        """Mean over the questions of the share of their parts that is held."""
        return fmean(reply.share for reply in self.replies)

    @property
    def full(self) -> int:
        """Questions of whose answer every part is held."""
        return sum(reply.held == len(reply.answers) for reply in self.replies)

    @property
    def seconds(self) -> float:
        """Mean per question."""
        return fmean(reply.seconds for reply in self.replies)

    @property
    def tokens(self) -> float:
        """Mean per question, in and out."""
        return fmean(reply.tokens_in + reply.tokens_out for reply in self.replies)

    def as_dict(self) -> dict[str, Any]:
        return {
            "way": self.way,
            "protocol": self.protocol,
            "take_in_seconds": self.take_in_seconds,
            "memory": self.memory,
            "questions": [reply.as_dict() for reply in self.replies],
        }


def ask(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[Question],
    way: Way,
    limit: int = LIMIT,
    report: Report = silent,
    *,
    chat: bool = True,
) -> Answers:
    """Ask one after another, greedily, to the end of the turn (in the plain form: of the line) or `limit` tokens.

    `chat` False leaves a chat template unused; without a template nothing else is possible.

    Raises:
        InputError: there is no question, or one does not fit into what the model reads at once.
        StopRequested: out of `report`.
    """
    if not questions:
        raise InputError("there is no question to ask")
    asker = _Asker(decoder, tokenizer, way, limit, chat and bool(tokenizer.chat_template))
    asker.warm_up(questions[0])
    reset_peak_memory(decoder.device)
    replies = []
    for number, question in enumerate(questions):
        report(Progress(number, len(questions), "questions", f"asking: {way.name}"))
        replies.append(asker.reply(question))
    report(Progress(len(questions), len(questions), "questions", f"asked: {way.name}"))
    memory = peak_memory(decoder.device)
    return Answers(way.name, asker.protocol, way.take_in_seconds, memory, tuple(replies))


class _Asker:
    """One way to ask one model."""

    def __init__(
        self, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, way: Way, limit: int, chat: bool
    ) -> None:
        self._model, self._tokenizer, self._way, self._limit = decoder.model, tokenizer, way, limit
        self._chat = chat
        self._ends = find_end_tokens(self._model, tokenizer) | ({tokenizer.eos_token_id} - {None})
        if self._chat:
            self._ends |= set(find_turn_end(tokenizer))
        self._window: int | None = getattr(self._model.config, "max_position_embeddings", None)

    @property
    def protocol(self) -> str:
        form = "a user turn of the chat template" if self._chat else f"the form {_PLAIN!r}"
        end = "the turn" if self._chat else "the line"
        return (
            f"{self._way.rule}; {form}; greedy, to the end of {end} or {self._limit} tokens; a part is held if it "
            "stands in the answer as whole words; seconds of each question alone, after one that is not counted"
        )

    def warm_up(self, question: Question) -> None:
        """What only the first pass of a model costs is no question's."""
        ids, _ = self._ids(question.question)
        next(iter_greedy_tokens(self._model, ids))

    def reply(self, question: Question) -> Reply:
        begin = time.perf_counter()
        ids, left_out = self._ids(question.question)
        found: list[int] = []
        ended = False
        for token in islice(iter_greedy_tokens(self._model, ids), self._limit):
            found.append(token)
            if token in self._ends or (not self._chat and "\n" in self._text(found).lstrip()):
                ended = True
                break
        text = self._text(found).strip()
        said = text if self._chat else text.partition("\n")[0].rstrip()
        seconds = time.perf_counter() - begin
        answers = tuple(question.answers)
        return Reply(
            question=question.question,
            answers=answers,
            said=said,
            held=sum(contains_phrase(said, part) for part in answers),
            seconds=seconds,
            tokens_in=len(ids),
            tokens_out=len(found),
            ended=ended,
            left_out=left_out,
        )

    def _text(self, ids: list[int]) -> str:
        return decode_ids(self._tokenizer, ids)

    def _ids(self, question: str) -> tuple[list[int], int]:
        """The question as the model gets it, and how many tokens of the end of its context found no room."""
        context = self._way.context(question)
        ids, left_out = self._asked(question, context), 0
        while context and (over := self._over(ids)) > 0:
            context, dropped = self._shortened(context, over)
            left_out += dropped
            ids = self._asked(question, context)
        if self._over(ids) > 0:
            raise InputError(
                f"the question {question!r} and {self._limit} tokens of answer do not fit into the {self._window} "
                "tokens that this model reads: ask a shorter one"
            )
        return ids, left_out

    def _over(self, ids: list[int]) -> int:
        return 0 if self._window is None else len(ids) + self._limit - self._window

    def _asked(self, question: str, context: str) -> list[int]:
        if not self._chat:
            form = _PLAIN_WITH if context else _PLAIN
            return list(self._tokenizer(form.format(context=context, question=question))["input_ids"])
        said = _CHAT_WITH.format(context=context, question=question) if context else question
        return encode_user_turn(self._tokenizer, said)

    def _shortened(self, context: str, over: int) -> tuple[str, int]:
        """The context without its last `over` tokens, and how many those are."""
        offsets = self._tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        kept = max(0, len(offsets) - over)
        return context[: offsets[kept - 1][1]] if kept else "", len(offsets) - kept
