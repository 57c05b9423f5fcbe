"""Causal tracing (Meng et al. 2022, section 2): the states that carry a fact.

The clean run gives p(answer) = high. With the subject corrupted, it falls to low. Then states of the clean run are
restored at one token, for every layer and token, and p(answer) is measured again. Kinds:

    hidden        one block's output
    mlp, attn     that part's output over a window of blocks [l - w/2, l + w/2 - 1]
    severed-mlp   one block's output, while the MLPs of that token keep their output of the corrupted run
    severed-attn  the same with the attentions (the published `trace_with_repatch`)

The scores are the published ones: softmax per corrupted sample, then the mean. They take fewer operations, because
states that cannot change are not computed: positions left of the restored token reuse keys and values of the corrupted
run, and blocks below a window are skipped. Restorations at all layers of a token run as one batch (see `restoration`).

    noise = fit_noise(NoiseRule.parse("3s"), decoder, tokenizer, ["Eiffel Tower"])
    request = TraceRequest("The Eiffel Tower is in", "Eiffel Tower")
    result = trace_one(decoder, tokenizer, request, TraceSettings(NoiseCorruption(noise)))
    result.scores["mlp"][token][layer]
"""

from collections.abc import Callable, Collection, Iterator, Sequence
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
from .corruption import CorruptedRun, Corruption, run_corrupted
from .restoration import restore
from .rules import KINDS, Kind, Scores

# Tokens of one forward pass of `estimate_costs`.
COST_BATCH_TOKENS = 4_096


@dataclass(frozen=True)
class TraceSettings:
    """How to trace facts. `window` is in blocks; `tokens` are the tokens whose states are restored."""

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
                "a trace needs at least one kind, one corrupted sample and a window of one block"
            )

    def restored_tokens(self, fact: LocatedPrompt) -> range:
        """The tokens of a fact whose states are restored; states left of the subject are not corrupted."""
        last_only = self.tokens == "subject-last"
        return range(fact.last, fact.last + 1) if last_only else range(fact.begin, len(fact.ids))

    def costs(self, fact: LocatedPrompt) -> list[int]:
        """For each restored token, the number of positions that are run: from the token to the end."""
        return [len(fact.ids) - token for token in self.restored_tokens(fact)]


@dataclass(frozen=True)
class TraceRequest:
    """A prompt to trace, its subject, and the answer that the model must give, if any."""

    prompt: str
    subject: str
    expected: str | None = None


@dataclass(frozen=True)
class FactTrace:
    """One traced fact. `scores[kind][token][layer]` is p(answer) with that state restored, in [0, 1].

    `high` is p(answer) in the clean run, `low` in the corrupted runs. `estimate` has the same shape as `scores`, for
    the kinds that have one (see `attribution`).
    """

    located: LocatedPrompt
    answer: str
    high: float
    low: float
    estimate: dict[Kind, Scores]
    scores: dict[Kind, Scores]


@dataclass(frozen=True)
class SkippedPrompt:
    """A request that was not traced, and the reason."""

    reason: str
    located: LocatedPrompt | None = None
    answer: str = ""
    high: float | None = None


Result = FactTrace | SkippedPrompt

# Called before each kind of each token, with the numbers of the batch's requests, their traces so far, and the fraction
# of the batch's work that is done. May raise `StopRequested`.
OnToken = Callable[[list[int], list[FactTrace], float], None]


@dataclass(frozen=True)
class _Fact:
    """A request with its number, its tokens and the first token of the expected answer."""

    number: int
    request: TraceRequest
    located: LocatedPrompt
    expected_id: int | None

    def matches(self, answer_id: int) -> bool:
        """Whether the model's first choice is the expected answer."""
        return self.expected_id in (None, answer_id)


def trace(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[TraceRequest],
    settings: TraceSettings,
    budget: Budget | None = None,
    on_token: OnToken = lambda _numbers, _traces, _fraction: None,
    finished: Collection[int] = (),
) -> Iterator[tuple[int, Result]]:
    """Trace requests, those of equal shape in one batch. Yields (number of the request, result) in any order.

    `finished` are numbers that an interrupted run has yielded already; they are not yielded again. The batches are the
    same with and without them, so a resumed trace gives the same bits.
    """
    budget = budget or Budget(decoder.device)
    skipped, shapes = _group_by_shape(tokenizer, requests)
    yield from ((number, result) for number, result in skipped.items() if number not in finished)

    def work(facts: Sequence[_Fact]) -> list[tuple[int, Result]]:
        if all(fact.number in finished for fact in facts):
            return []
        return _trace_batch(decoder, tokenizer, facts, settings, budget, on_token)

    for facts in shapes:
        for results in budget.batches(facts, _tokens_per_fact(decoder.layers, settings, facts), work):
            yield from ((number, result) for number, result in results if number not in finished)


def trace_one(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, request: TraceRequest, settings: TraceSettings
) -> FactTrace:
    """Trace one request.

    Raises:
        InputError: the subject is not in the prompt, or the model does not give the expected answer.
    """
    [(_, result)] = trace(decoder, tokenizer, [request], settings)
    if isinstance(result, SkippedPrompt):
        raise InputError(f"{request.prompt!r}: {result.reason}")
    return result


def split_into_batches(
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[TraceRequest],
    settings: TraceSettings,
    layers: int,
    tokens: int,
) -> tuple[dict[int, SkippedPrompt], list[list[int]]]:
    """The batches that `trace` makes with a budget of `tokens` that never runs out of memory.

    Returns the skipped requests and the numbers of each batch. Tracing each batch alone gives the same bits.
    """
    skipped, shapes = _group_by_shape(tokenizer, requests)
    batches = []
    for facts in shapes:
        size = max(1, tokens // _tokens_per_fact(layers, settings, facts))
        numbers = [fact.number for fact in facts]
        batches += [numbers[begin : begin + size] for begin in range(0, len(numbers), size)]
    return skipped, batches


def estimate_costs(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[TraceRequest],
    settings: TraceSettings,
    on_batch: Callable[[int], None] = lambda _done: None,
) -> dict[int, int]:
    """The cost of tracing: number of a request -> positions that are run. Requests that will be skipped are left out.

    Runs one forward pass per fact. Its batches differ from those of `trace`, so at a near tie the first choice may
    differ too; only the estimated time depends on it. `on_batch(facts done)` may raise `StopRequested`.
    """
    _, shapes = _group_by_shape(tokenizer, requests)
    waiting = sorted((fact for facts in shapes for fact in facts), key=lambda fact: len(fact.located.ids))
    total = len(waiting)
    costs: dict[int, int] = {}
    while waiting:
        size = max(1, scaled_batch(COST_BATCH_TOKENS) // len(waiting[-1].located.ids))
        batch, waiting = waiting[-size:], waiting[:-size]
        choices = _first_choices(decoder, [fact.located.ids for fact in batch])
        for fact, choice in zip(batch, choices, strict=True):
            if fact.matches(choice):
                costs[fact.number] = sum(settings.costs(fact.located))
        on_batch(total - len(waiting))
    return costs


def _group_by_shape(
    tokenizer: PreTrainedTokenizerBase, requests: Sequence[TraceRequest]
) -> tuple[dict[int, SkippedPrompt], list[list[_Fact]]]:
    """Requests whose subject is not found, and the others in groups of equal shape."""
    skipped: dict[int, SkippedPrompt] = {}
    shapes: dict[tuple[int, int, int], list[_Fact]] = {}
    for number, request in enumerate(requests):
        try:
            located = locate_subject(tokenizer, request.prompt, request.subject)
        except InputError as error:
            skipped[number] = SkippedPrompt(str(error))
            continue
        expected = None if request.expected is None else encode_target(tokenizer, request.expected)[0]
        shape = (len(located.ids), located.begin, located.end)
        shapes.setdefault(shape, []).append(_Fact(number, request, located, expected))
    return skipped, list(shapes.values())


def _tokens_per_fact(layers: int, settings: TraceSettings, facts: Sequence[_Fact]) -> int:
    """Tokens of one fact of a shape when restorations at all layers of a token run as one batch."""
    return layers * settings.corruption.samples * len(facts[0].located.ids)


@torch.no_grad()
def _first_choices(decoder: Decoder, rows: Sequence[Sequence[int]]) -> list[int]:
    """The most likely next token of each row of ids."""
    ids, mask = pad_right(rows, decoder.device)
    run = decoder.run(ids, mask)
    last = torch.tensor([len(row) - 1 for row in rows], device=decoder.device)
    states = run.states[-1][torch.arange(len(rows), device=decoder.device), last]
    choices: list[int] = decoder.logits(states[:, None])[:, 0].argmax(-1).tolist()
    return choices


def _trace_batch(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    facts: Sequence[_Fact],
    settings: TraceSettings,
    budget: Budget,
    on_token: OnToken,
) -> list[tuple[int, Result]]:
    """Trace facts of equal shape. Facts whose first choice is not the expected answer are skipped."""
    run = run_corrupted(decoder, [fact.located for fact in facts], settings.corruption)
    results: list[tuple[int, Result]] = []
    known: list[_Fact] = []
    for fact, answer_id, high in zip(facts, run.answers.tolist(), run.high, strict=True):
        if fact.matches(answer_id):
            known.append(fact)
            continue
        answer = str(tokenizer.decode([answer_id]))
        reason = f"the model's first choice is {answer!r} (p = {high:.3f}), not {fact.request.expected!r}"
        results.append((fact.number, SkippedPrompt(reason, fact.located, answer, high)))
    if not known:
        return results
    if len(known) < len(facts):
        run = run_corrupted(decoder, [fact.located for fact in known], settings.corruption)
    traces = _start_traces(decoder, tokenizer, run, settings)
    numbers = [fact.number for fact in known]
    costs, kinds, done = settings.costs(run.shape), settings.kinds, 0.0
    for token, cost in zip(settings.restored_tokens(run.shape), costs, strict=True):
        for index, kind in enumerate(kinds):
            on_token(numbers, traces, (done + cost * index / len(kinds)) / sum(costs))
            restored = restore(decoder, run, kind, token, settings.window, budget)
            for result, scores in zip(traces, restored, strict=True):
                result.scores[kind][token] = list(scores)
        done += cost
    if settings.tokens == "all":
        # Before the subject nothing is corrupted, so a restoration changes nothing.
        for result in traces:
            for table in result.scores.values():
                table[: result.located.begin] = [
                    [result.low] * decoder.layers for _ in range(result.located.begin)
                ]
    return results + list(zip(numbers, traces, strict=True))


def _start_traces(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, run: CorruptedRun, settings: TraceSettings
) -> list[FactTrace]:
    """Traces of a run's facts with their estimates and empty scores."""
    estimates = estimate_scores(decoder, run, settings.kinds, settings.window)
    answers = [str(tokenizer.decode([answer_id])) for answer_id in run.answers.tolist()]
    return [
        FactTrace(
            located, answer, high, low, estimate,
            {kind: [[None] * decoder.layers for _ in located.ids] for kind in settings.kinds},
        )
        for located, answer, high, low, estimate in zip(
            run.facts, answers, run.high, run.low, estimates, strict=True
        )
    ]  # fmt: skip
