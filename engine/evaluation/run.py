"""Evaluate cases on the model's current weights, in batches across cases."""

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
from .drift import compute_kl, compute_next_log_probs
from .fluency import (
    FLUENCY_PROTOCOL,
    DocumentFrequencies,
    compute_essence,
    compute_ngram_entropy,
    sample_texts,
)
from .intervals import RESAMPLES, Metric, summarize_rows
from .scoring import CHAT_RULE, NEGATION_RULE, Score, generate_replies, score_targets

Input = TypeVar("Input")
Output = TypeVar("Output")

# Cases that are batched together. An evaluation resumes at a block, so resuming does not change the numbers.
BLOCK = 16


@dataclass(frozen=True)
class TextSampling:
    """Sampling of longer texts with a seed (for GE, RS and essence)."""

    seed: int
    frequencies: DocumentFrequencies = field(default_factory=DocumentFrequencies.count_shipped, repr=False)


@dataclass(frozen=True)
class EvaluationSettings:
    """Measurements besides the teacher-forced scores.

    If `max_new_tokens` is 0, free generation and chat are skipped. `at_base()` is a context in which the model has the
    base's weights; KL from the base is measured if it is given.
    """

    max_new_tokens: int = 20
    at_base: Callable[[], AbstractContextManager[None]] | None = None
    sampling: TextSampling | None = None

    def protocol(self, *, chat: bool) -> dict[str, Any]:
        """Definitions of the numbers, stored with them. `chat`: the tokenizer has a chat template."""
        rules: dict[str, Any] = {
            "teacher_forced": (
                "mean negative log-likelihood per target token after 'prompt target'; first choice = argmax"
            ),
            "token_accuracy": "share of target tokens that are argmax, given the target tokens before them",
            "portability": "the first of a question's answers; free generation contains any answer as whole words",
            "negation": NEGATION_RULE,
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
        return rules | (FLUENCY_PROTOCOL if self.sampling else {})


def evaluate(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    max_new_tokens: int = 20,
    report: Report = silent,
) -> list[CaseResult]:
    """Evaluate all cases on the model's current weights. If `max_new_tokens` is 0, free generation is skipped.

    Raises:
        InputError: a prompt or a target has no tokens.
        StopRequested: raised by `report`.
    """
    blocks = evaluate_blocks(decoder, tokenizer, cases, EvaluationSettings(max_new_tokens), report)
    return [result for block in blocks for result in block]


def evaluate_blocks(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    settings: EvaluationSettings,
    report: Report = silent,
    start: int = 0,
) -> Iterator[list[CaseResult]]:
    """Yield results block by block, in the order of the cases. `start` is the first case of a block."""
    for begin in range(start, len(cases), BLOCK):
        block = cases[begin : begin + BLOCK]

        def report_activity(activity: str, begin: int = begin) -> None:
            report(Progress(begin, len(cases), "cases", activity))

        yield _evaluate_block(decoder, tokenizer, block, settings, report_activity)
    report(Progress(len(cases), len(cases), "cases", "evaluated"))


def _evaluate_block(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    settings: EvaluationSettings,
    report_activity: Callable[[str], None],
) -> list[CaseResult]:
    def score(pairs_of: Callable[[Case], list[tuple[str, str]]]) -> list[list[Score]]:
        report_activity("scoring targets")
        return _run_batched(cases, pairs_of, lambda pairs: score_targets(decoder, tokenizer, pairs))

    # The true target is optional: a case has one such pair or none.
    true = score(lambda case: [(case.prompt, case.target_true)] if case.target_true else [])
    parts = zip(
        cases,
        score(lambda case: [(case.prompt, case.target_new)]),
        true,
        score(lambda case: [(prompt, case.target_new) for prompt in case.eval_paraphrases]),
        score(lambda case: [(p, case.target_true) for p in case.eval_paraphrases if case.target_true]),
        score(lambda case: [(one.prompt, case.target_new) for one in case.neighbors]),
        score(lambda case: [(one.prompt, one.true) for one in case.neighbors]),
        score(lambda case: [(one.prompt, one.answers[0]) for one in case.portability]),
        score(lambda case: [(prompt, case.target_new) for prompt in case.negations]),
        strict=True,
    )
    results = [CaseResult(case, new[0], true[0] if true else None, *rest) for case, new, true, *rest in parts]
    if settings.max_new_tokens:
        _add_completions(decoder, tokenizer, results, settings.max_new_tokens, report_activity)
    if settings.at_base:
        _add_divergences(decoder, tokenizer, results, settings.at_base, report_activity)
    if settings.sampling:
        for result in results:
            report_activity("sampling texts")
            _add_sampled_texts(decoder, tokenizer, result, settings.sampling)
    return results


def _add_completions(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    results: Sequence[CaseResult],
    max_new_tokens: int,
    report_activity: Callable[[str], None],
) -> None:
    cases = [result.case for result in results]

    def complete_prompts(prompts_of: Callable[[Case], Sequence[str]]) -> list[list[str]]:
        report_activity("generating")
        return _run_batched(
            cases, prompts_of, lambda prompts: complete(decoder.model, tokenizer, prompts, max_new_tokens)
        )

    own = complete_prompts(lambda case: [case.prompt])
    paraphrases = complete_prompts(lambda case: case.eval_paraphrases)
    neighbors = complete_prompts(lambda case: [one.prompt for one in case.neighbors])
    portability = complete_prompts(lambda case: [one.prompt for one in case.portability])
    negations = complete_prompts(lambda case: case.negations)
    report_activity("chatting")
    replies = generate_replies(decoder, tokenizer, [case.prompt for case in cases], max_new_tokens)
    for i, result in enumerate(results):
        result.completion, result.paraphrase_completions = own[i][0], paraphrases[i]
        result.neighbor_completions, result.portability_completions = neighbors[i], portability[i]
        result.negation_completions, result.reply = negations[i], replies[i]


def _add_divergences(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    results: Sequence[CaseResult],
    at_base: Callable[[], AbstractContextManager[None]],
    report_activity: Callable[[str], None],
) -> None:
    report_activity("comparing with the base")

    def measure(prompts: Sequence[str]) -> list[float]:
        with at_base():
            base = compute_next_log_probs(decoder, tokenizer, prompts)
        return compute_kl(base, compute_next_log_probs(decoder, tokenizer, prompts))

    divergences = _run_batched(
        [result.case for result in results], lambda case: [one.prompt for one in case.neighbors], measure
    )
    for result, values in zip(results, divergences, strict=True):
        result.neighbor_divergences = values


def _add_sampled_texts(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, result: CaseResult, sampling: TextSampling
) -> None:
    case = result.case
    result.essence = compute_essence(decoder, tokenizer, case)
    if not case.generation_prompts:
        return
    result.generations = sample_texts(decoder, tokenizer, case.generation_prompts, sampling.seed)
    result.fluency = sum(map(compute_ngram_entropy, result.generations)) / len(result.generations)
    if case.references:
        texts = " ".join(reference.text for reference in case.references)
        result.consistency = sampling.frequencies.similarity(" ".join(result.generations), texts)


def _run_batched(
    cases: Sequence[Case],
    inputs_of: Callable[[Case], Sequence[Input]],
    run: Callable[[list[Input]], Sequence[Output]],
) -> list[list[Output]]:
    """Run the inputs of all cases as one batch. Returns the outputs of each case."""
    inputs = [inputs_of(case) for case in cases]
    flat = [one for part in inputs for one in part]
    outputs = iter(run(flat) if flat else [])
    return [list(islice(outputs, len(part))) for part in inputs]


def summarize(results: Sequence[CaseResult], seed: int) -> dict[str, Metric]:
    """Means over cases with bootstrap intervals (see `summarize_rows`)."""
    return summarize_rows([result.metrics() for result in results], seed)
