"""Put all questions of some cases to the model as it is now, in batches that run across cases."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, TypeVar

from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.generation import complete
from ..progress import Progress, Report, silent
from .cases import Case, CaseResult
from .drift import divergences, next_log_probs
from .fluency import RULES as FLUENCY_RULES
from .fluency import Terms, entropy, essence, sampled
from .intervals import RESAMPLES, Metric, summarize_rows
from .probes import CHAT_RULE, NEGATION, replies
from .teacher_forced import score_targets

Ask = TypeVar("Ask")
Answer = TypeVar("Answer")

# Cases asked together. What a resumed evaluation goes on from is a whole block, so the numbers do not depend on it.
BLOCK = 16


@dataclass(frozen=True)
class Writing:
    """Have the model write longer texts too (GE, RS, essence), with `seed`."""

    seed: int
    terms: Terms = field(default_factory=Terms.shipped, repr=False)


@dataclass(frozen=True)
class Questions:
    """What is asked of each case besides the teacher-forced scores.

    `max_new_tokens` 0 leaves out free generation and chat. `at_base()` is a context in which the model has the base's
    weights, for the KL from it.
    """

    max_new_tokens: int = 20
    at_base: Callable[[], AbstractContextManager[None]] | None = None
    writing: Writing | None = None

    def protocol(self, *, chat: bool) -> dict[str, Any]:
        """How the numbers come about, stored beside them; `chat` if the tokenizer has a chat template."""
        rules: dict[str, Any] = {
            "teacher_forced": (
                "mean negative log-likelihood per target token after 'prompt target'; first choice = argmax"
            ),
            "token_accuracy": "share of target tokens that are argmax after those before them",
            "portability": "the first of a question's answers; free generation holds any of them as whole words",
            "negation": NEGATION,
            "S": "harmonic mean of ES, PS and NS",
            "interval": f"95 %, {RESAMPLES} bootstrap samples over cases (requests, texts)",
        }
        if self.max_new_tokens:
            rules["free_generation"] = (
                f"greedy, {self.max_new_tokens} new tokens, counted if the completion begins with the target"
            )
            rules["max_new_tokens"] = self.max_new_tokens
            if chat:
                rules["chat"] = CHAT_RULE
        if self.at_base:
            rules["KL"] = "KL(base || revision) of the next token's distribution after the prompt, nats"
        return rules | (FLUENCY_RULES if self.writing else {})


def evaluate(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    max_new_tokens: int = 20,
    report: Report = silent,
) -> list[CaseResult]:
    """Score all cases on the model as it is now. With `max_new_tokens` 0, without free generation.

    Raises:
        InputError: a prompt or target that tokenizes to nothing.
        Stopped: out of `report`.
    """
    blocks = evaluate_blocks(decoder, tokenizer, cases, Questions(max_new_tokens), report)
    return [result for block in blocks for result in block]


def evaluate_blocks(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    questions: Questions,
    report: Report = silent,
    start: int = 0,
) -> Iterator[list[CaseResult]]:
    """Results in the order of the cases, a block at a time, from case `start` on, which begins one."""
    for begin in range(start, len(cases), BLOCK):
        block = cases[begin : begin + BLOCK]

        def tell(activity: str, begin: int = begin) -> None:
            report(Progress(begin, len(cases), "cases", activity))

        yield _evaluate_block(decoder, tokenizer, block, questions, tell)
    report(Progress(len(cases), len(cases), "cases", "evaluated"))


def _evaluate_block(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    questions: Questions,
    tell: Callable[[str], None],
) -> list[CaseResult]:
    def scores(asked: Callable[[Case], list[tuple[str, str]]]) -> list[list[Any]]:
        tell("scoring targets")
        return _each(cases, asked, lambda pairs: score_targets(decoder, tokenizer, pairs))

    new = scores(lambda case: [(case.prompt, case.target_new)])
    true = scores(lambda case: [(case.prompt, case.target_true)] if case.target_true else [])
    para_new = scores(lambda case: [(prompt, case.target_new) for prompt in case.paraphrases])
    para_true = scores(
        lambda case: [(p, case.target_true) for p in case.paraphrases] if case.target_true else []
    )
    near_new = scores(lambda case: [(one.prompt, case.target_new) for one in case.neighbors])
    near_true = scores(lambda case: [(one.prompt, one.true) for one in case.neighbors])
    hops = scores(lambda case: [(one.prompt, one.answers[0]) for one in case.portability])
    negations = scores(lambda case: [(prompt, case.target_new) for prompt in case.negations])
    results = [
        CaseResult(
            case=case,
            new=new[i][0],
            true=true[i][0] if true[i] else None,
            paraphrases_new=para_new[i],
            paraphrases_true=para_true[i],
            neighbors_new=near_new[i],
            neighbors_true=near_true[i],
            portability=hops[i],
            negations=negations[i],
        )
        for i, case in enumerate(cases)
    ]
    if questions.max_new_tokens:
        _add_completions(decoder, tokenizer, results, questions.max_new_tokens, tell)
    if questions.at_base:
        _add_divergences(decoder, tokenizer, results, questions.at_base, tell)
    if questions.writing:
        for result in results:
            tell("writing texts")
            _add_writing(decoder, tokenizer, result, questions.writing)
    return results


def _add_completions(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    results: Sequence[CaseResult],
    max_new_tokens: int,
    tell: Callable[[str], None],
) -> None:
    cases = [result.case for result in results]

    def completions(asked: Callable[[Case], Sequence[str]]) -> list[list[str]]:
        tell("generating")
        return _each(
            cases, asked, lambda prompts: complete(decoder.model, tokenizer, prompts, max_new_tokens)
        )

    own = completions(lambda case: [case.prompt])
    paraphrases = completions(lambda case: case.paraphrases)
    neighbors = completions(lambda case: [one.prompt for one in case.neighbors])
    hops = completions(lambda case: [one.prompt for one in case.portability])
    negations = completions(lambda case: case.negations)
    tell("chatting")
    said = replies(decoder, tokenizer, [case.prompt for case in cases], max_new_tokens)
    for i, result in enumerate(results):
        result.completion, result.paraphrase_completions = own[i][0], paraphrases[i]
        result.neighbor_completions, result.portability_completions = neighbors[i], hops[i]
        result.negation_completions, result.reply = negations[i], said[i]


def _add_divergences(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    results: Sequence[CaseResult],
    at_base: Callable[[], AbstractContextManager[None]],
    tell: Callable[[str], None],
) -> None:
    tell("comparing with the base")

    def answer(prompts: Sequence[str]) -> list[float]:
        with at_base():
            base = next_log_probs(decoder, tokenizer, prompts)
        return divergences(base, next_log_probs(decoder, tokenizer, prompts))

    found = _each(
        [result.case for result in results], lambda case: [one.prompt for one in case.neighbors], answer
    )
    for result, values in zip(results, found, strict=True):
        result.neighbor_divergences = values


def _add_writing(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, result: CaseResult, writing: Writing
) -> None:
    case = result.case
    result.essence = essence(decoder, tokenizer, case)
    if not case.generation_prompts:
        return
    result.generations = sampled(decoder, tokenizer, case.generation_prompts, writing.seed)
    result.fluency = sum(map(entropy, result.generations)) / len(result.generations)
    if case.references:
        texts = " ".join(reference.text for reference in case.references)
        result.consistency = writing.terms.similarity(" ".join(result.generations), texts)


def _each(
    cases: Sequence[Case],
    asked: Callable[[Case], Sequence[Ask]],
    answer: Callable[[list[Ask]], Sequence[Answer]],
) -> list[list[Answer]]:
    """Put what all cases ask in one batch, and give each case its own answers."""
    asks = [asked(case) for case in cases]
    flat = [one for part in asks for one in part]
    answers = iter(answer(flat) if flat else [])
    return [list(islice(answers, len(part))) for part in asks]


def summarize(results: Sequence[CaseResult], seed: int) -> dict[str, Metric]:
    """Means over cases with bootstrap intervals; S from the means of its three, also in each bootstrap sample."""
    return summarize_rows([result.numbers() for result in results], seed)
