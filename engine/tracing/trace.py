"""Causal tracing (Meng et al. 2022, section 2): which states carry a fact.

The clean run gives p(answer) = high; with the subject corrupted it falls to low; then states of the clean run are put
back at one token and p(answer) is read again, for every layer and token. Kinds:

    hidden        one block's output
    mlp, attn     that part's output over a window of blocks [l - w/2, l + w/2 - 1]
    severed-mlp   one block's output, while the MLPs of that token stay what they were in the corrupted run
    severed-attn  the same with the attentions (the published `trace_with_repatch`)

The numbers are the published ones (softmax per corrupted sample, then the mean); the way is shorter. What cannot
change is not run: positions left of the restored token keep the corrupted run's keys and values, blocks below a
window are not touched and its first block changes only the restored token, variants of a window are one until they
differ, and of the last block only the last position is wanted. All layers of one token, and all facts of one shape,
climb together in one batch that grows as it climbs.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import torch
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.decoder import Decoder
from ..model.limits import scaled_batch
from ..model.memory import Budget
from ..model.tokens import LocatedPrompt, encode_target, locate_subject, pad_right
from .attribution import estimate_scores
from .corruption import Corruption, run_corrupted
from .restoration import restore
from .rules import KINDS, Kind, Scores

# Positions of one forward pass that asks for first choices.
_TOKENS_AT_ONCE = 4_096


@dataclass(frozen=True)
class TraceSettings:
    """How facts are traced; the corruption is what makes p(answer) fall."""

    corruption: Corruption
    kinds: tuple[Kind, ...] = ("hidden", "mlp", "attn")
    window: int = 10
    tokens: Literal["all", "subject-last"] = "all"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
        if not self.kinds or self.corruption.samples < 1 or self.window < 1:
            raise InputError(
                "a trace needs at least one kind, one corrupted sample and a window of one layer"
            )


@dataclass(frozen=True)
class TraceRequest:
    """A prompt to trace, the words in it that the fact is about, and the answer expected, if any."""

    prompt: str
    subject: str
    expected: str | None = None


@dataclass(frozen=True)
class FactTrace:
    """One traced fact. `scores[kind][token][layer]` is p(answer) with that state restored.

    `estimate` is the preview of the same table (see engine.preview), for the kinds that have one.
    """

    located: LocatedPrompt
    answer: str
    high: float
    low: float
    estimate: dict[Kind, Scores]
    scores: dict[Kind, Scores]


@dataclass(frozen=True)
class SkippedPrompt:
    """A question that was not traced, and why."""

    reason: str
    located: LocatedPrompt | None = None
    answer: str = ""
    high: float | None = None


# Called whenever a token of a kind is done, with the questions' numbers and their traces so far.
OnToken = Callable[[list[int], list[FactTrace], float], None]


def trace(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[TraceRequest],
    settings: TraceSettings,
    budget: Budget | None = None,
    on_token: OnToken = lambda _numbers, _traces, _share: None,
    finished: Collection[int] = (),
) -> Iterator[tuple[int, FactTrace | SkippedPrompt]]:
    """Trace questions, those of equal shape together; yields (number of the question, result) as they are done.

    `finished` numbers were yielded by a run that was stopped and are not yielded again. The batches are made as if
    they had not been, and one that was stopped in its middle runs whole: the same shapes give the same bits.
    `on_token(numbers, traces, share)` follows a batch: `share` of its work is done. It may raise to stop.
    """
    budget = budget or Budget(decoder.device)
    skipped, shapes = _by_shape(tokenizer, questions)
    yield from ((number, result) for number, result in skipped.items() if number not in finished)

    def work(members: Sequence[tuple[int, LocatedPrompt]]) -> list[tuple[int, FactTrace | SkippedPrompt]]:
        if all(number in finished for number, _ in members):
            return []
        return _trace_batch(decoder, tokenizer, members, questions, settings, budget, on_token)

    for members in shapes:
        for results in budget.batches(members, _each(decoder.layers, settings, members), work):
            yield from ((number, result) for number, result in results if number not in finished)


def split_into_batches(
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[TraceRequest],
    settings: TraceSettings,
    layers: int,
    tokens: int,
) -> tuple[dict[int, SkippedPrompt], list[list[int]]]:
    """How `trace` shares out the work with a budget of so many tokens, where all of it is borne.

    Returns the questions that are skipped at once and, for each batch, its questions' numbers: to trace just those,
    each batch by itself, wherever that is, gives the same bits.
    """
    skipped, shapes = _by_shape(tokenizer, questions)
    made = []
    for members in shapes:
        size = max(1, tokens // _each(layers, settings, members))
        numbers = [number for number, _ in members]
        made += [numbers[begin : begin + size] for begin in range(0, len(numbers), size)]
    return skipped, made


def _by_shape(
    tokenizer: PreTrainedTokenizerBase, questions: Sequence[TraceRequest]
) -> tuple[dict[int, SkippedPrompt], list[list[tuple[int, LocatedPrompt]]]]:
    """Questions whose subject is not found, and the others with their numbers, those of equal shape together."""
    skipped: dict[int, SkippedPrompt] = {}
    shapes: dict[tuple[int, int, int], list[tuple[int, LocatedPrompt]]] = {}
    for number, question in enumerate(questions):
        try:
            located = locate_subject(tokenizer, question.prompt, question.subject)
        except InputError as error:
            skipped[number] = SkippedPrompt(str(error))
            continue
        shape = (len(located.ids), located.begin, located.end)
        shapes.setdefault(shape, []).append((number, located))
    return skipped, list(shapes.values())


def _each(layers: int, settings: TraceSettings, members: Sequence[tuple[int, LocatedPrompt]]) -> int:
    """Tokens of one fact of a shape: so many fill the budget that all layers of a token climb together."""
    return layers * settings.corruption.samples * len(members[0][1].ids)


def estimate_costs(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    questions: Sequence[TraceRequest],
    settings: TraceSettings,
    on_batch: Callable[[int], None] = lambda _done: None,
) -> dict[int, int]:
    """What tracing will cost: number of a question -> positions that are run for its tokens.

    Questions that will be skipped are left out: one forward pass each tells the first choice (in other batches than
    `trace` makes, so of a near tie it may tell the other one; nothing but the time left depends on it).
    `on_batch(done)` is called with how many were asked; it may raise to stop.
    """
    located: dict[int, LocatedPrompt] = {}
    for number, question in enumerate(questions):
        with suppress(InputError):
            located[number] = locate_subject(tokenizer, question.prompt, question.subject)
    order = sorted(located, key=lambda number: len(located[number].ids))
    costs: dict[int, int] = {}
    while order:
        batch = [
            order.pop()
            for _ in range(
                min(len(order), max(1, scaled_batch(_TOKENS_AT_ONCE) // len(located[order[-1]].ids)))
            )
        ]
        choices = _first_choices(decoder, [located[number].ids for number in batch])
        for number, choice in zip(batch, choices, strict=True):
            expected, fact = questions[number].expected, located[number]
            if expected is None or encode_target(tokenizer, expected)[0] == choice:
                costs[number] = sum(_positions(settings, fact))
        on_batch(len(located) - len(order))
    return costs


@torch.no_grad()
def _first_choices(decoder: Decoder, rows: Sequence[Sequence[int]]) -> list[int]:
    """The likeliest next token of each row of ids."""
    ids, mask = pad_right(rows, decoder.device)
    run = decoder.run(ids, mask)
    last = torch.tensor([len(row) - 1 for row in rows], device=decoder.device)
    states = run.states[-1][torch.arange(len(rows), device=decoder.device), last]
    choices: list[int] = decoder.logits(states[:, None])[:, 0].argmax(-1).tolist()
    return choices


def trace_one(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, question: TraceRequest, settings: TraceSettings
) -> FactTrace:
    """Trace one question.

    Raises:
        InputError: it cannot be traced; says why.
    """
    [(_, result)] = trace(decoder, tokenizer, [question], settings)
    if isinstance(result, SkippedPrompt):
        raise InputError(f"{question.prompt!r}: {result.reason}")
    return result


def _trace_batch(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    members: Sequence[tuple[int, LocatedPrompt]],
    questions: Sequence[TraceRequest],
    settings: TraceSettings,
    budget: Budget,
    on_token: OnToken,
) -> list[tuple[int, FactTrace | SkippedPrompt]]:
    results: list[tuple[int, FactTrace | SkippedPrompt]] = []
    corrupted = run_corrupted(decoder, [located for _, located in members], settings.corruption)
    answers = [str(tokenizer.decode([token])) for token in corrupted.answers.tolist()]
    right = []
    for i, (number, located) in enumerate(members):
        expected, high = questions[number].expected, corrupted.high[i]
        if expected is None or encode_target(tokenizer, expected)[0] == int(corrupted.answers[i]):
            right.append(i)
        else:
            reason = f"the model's first choice is {answers[i]!r} (p = {high:.3f}), not {expected!r}"
            results.append((number, SkippedPrompt(reason, located, answers[i], high)))
    if not right:
        return results
    if len(right) < len(members):
        corrupted = run_corrupted(decoder, [members[i][1] for i in right], settings.corruption)
    previews = estimate_scores(decoder, corrupted, settings.kinds, settings.window)
    traces = []
    for k, i in enumerate(right):
        located, scores = members[i][1], _empty_scores(decoder, settings, members[i][1])
        numbers_of = (corrupted.high[k], corrupted.low[k], previews[k], scores)
        traces.append(FactTrace(located, answers[i], *numbers_of))
    numbers = [members[i][0] for i in right]
    tokens, costs = _tokens(settings, corrupted.shape), _positions(settings, corrupted.shape)
    for done, token in enumerate(tokens):
        for k, kind in enumerate(settings.kinds):
            on_token(
                numbers, traces, (sum(costs[:done]) + costs[done] * k / len(settings.kinds)) / sum(costs)
            )
            restored = restore(decoder, corrupted, kind, token, settings.window, budget)
            for fact, result in enumerate(traces):
                result.scores[kind][token] = list(restored[fact])
    for number, result in zip(numbers, traces, strict=True):
        if settings.tokens == "all":
            for table in result.scores.values():
                for token in range(
                    result.located.begin
                ):  # nothing there was corrupted: restoring changes nothing
                    table[token] = [result.low for _ in range(decoder.layers)]
        results.append((number, result))
    return results


def _tokens(settings: TraceSettings, fact: LocatedPrompt) -> list[int]:
    return [fact.last] if settings.tokens == "subject-last" else list(range(fact.begin, len(fact.ids)))


def _positions(settings: TraceSettings, fact: LocatedPrompt) -> list[int]:
    """For each token that is restored, how many positions are run: those to its left are not."""
    return [len(fact.ids) - token for token in _tokens(settings, fact)]


def _empty_scores(decoder: Decoder, settings: TraceSettings, fact: LocatedPrompt) -> dict[Kind, Scores]:
    return {kind: [[None] * decoder.layers for _ in fact.ids] for kind in settings.kinds}
