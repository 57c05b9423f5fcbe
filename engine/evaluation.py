"""Did the edit hold, in other words too, and did the neighbours stay: the published metrics and free generation.

Teacher-forced (Meng et al. 2022, memit's eval_utils_counterfact): p(target | prompt) as the mean negative
log-likelihood per target token. ES, PS: share of prompts (paraphrases) where the new target is likelier than the true
one; NS: share of neighbourhood prompts where the true one is; S their harmonic mean; EM, PM, NM the differences of
exp(-NLL); EA, PA, NA: every target token is the first choice. Free generation: greedy, a fixed number of tokens,
no target shown; FE, FP, FN: the completion begins with the target.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from .decoder import Decoder
from .generation import complete
from .progress import Progress, Report, silent
from .tokens import prompt_ids, right_padded, target_ids

_TOKENS_AT_ONCE = 2_048
_RESAMPLES = 1_000


@dataclass(frozen=True)
class Neighbour:
    """A prompt about another subject, and the answer that should stay."""

    prompt: str
    true: str


@dataclass(frozen=True)
class Case:
    """One rewritten fact and what to ask about it; all prompts are whole, with the subject in them."""

    prompt: str
    target_new: str
    target_true: str | None = None
    paraphrases: tuple[str, ...] = ()
    neighbours: tuple[Neighbour, ...] = ()


@dataclass(frozen=True)
class Score:
    """A target under teacher forcing: mean negative log-likelihood per token (nats), and if each is first choice."""

    nll: float
    first_choice: bool


@dataclass(frozen=True)
class Metric:
    """A mean over cases with its 95 % bootstrap interval; `count` cases had what it needs."""

    value: float
    low: float
    high: float
    count: int


@dataclass
class CaseResult:
    """What was measured for one case; lists run over paraphrases or neighbours."""

    case: Case
    new: Score
    true: Score | None
    paraphrases_new: list[Score]
    paraphrases_true: list[Score]
    neighbours_new: list[Score]
    neighbours_true: list[Score]
    completion: str | None = None
    paraphrase_completions: list[str] = field(default_factory=list)
    neighbour_completions: list[str] = field(default_factory=list)

    def numbers(self) -> dict[str, float]:
        """Every metric of this case alone, each in [0, 1] but the magnitudes in [-1, 1]."""
        case, found = self.case, {}
        found["EA"] = float(self.new.first_choice)
        if self.completion is not None:
            found["FE"] = float(_begins(self.completion, case.target_new))
        if self.true:
            found["ES"] = float(self.true.nll > self.new.nll)
            found["EM"] = float(np.exp(-self.new.nll) - np.exp(-self.true.nll))
        if self.paraphrases_new:
            found["PA"] = _mean(score.first_choice for score in self.paraphrases_new)
        if self.paraphrase_completions:
            found["FP"] = _mean(_begins(text, case.target_new) for text in self.paraphrase_completions)
        if self.paraphrases_new and self.paraphrases_true:
            pairs = list(zip(self.paraphrases_new, self.paraphrases_true, strict=True))
            found["PS"] = _mean(true.nll > new.nll for new, true in pairs)
            found["PM"] = _mean(np.exp(-new.nll) - np.exp(-true.nll) for new, true in pairs)
        if self.neighbours_new:
            pairs = list(zip(self.neighbours_new, self.neighbours_true, strict=True))
            found["NS"] = _mean(true.nll < new.nll for new, true in pairs)
            found["NM"] = _mean(np.exp(-true.nll) - np.exp(-new.nll) for new, true in pairs)
            found["NA"] = _mean(true.first_choice for _, true in pairs)
        if self.neighbour_completions:
            answers = zip(self.neighbour_completions, case.neighbours, strict=True)
            found["FN"] = _mean(_begins(text, neighbour.true) for text, neighbour in answers)
        return found

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"metrics": self.numbers()}


def protocol(max_new_tokens: int, seed: int) -> dict[str, Any]:
    """How the numbers come about, stored beside them."""
    return {
        "teacher_forced": "mean negative log-likelihood per target token after 'prompt target'; first choice = argmax",
        "free_generation": f"greedy, {max_new_tokens} new tokens, counted if the completion begins with the target",
        "S": "harmonic mean of ES, PS and NS",
        "interval": f"95 %, {_RESAMPLES} bootstrap samples over cases",
        "max_new_tokens": max_new_tokens,
        "seed": seed,
    }


def evaluate(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    cases: Sequence[Case],
    max_new_tokens: int = 20,
    report: Report = silent,
) -> list[CaseResult]:
    """Score all cases on the model as it is now. With `max_new_tokens` 0, without free generation.

    Raises:
        InputError: a prompt or target that tokenises to nothing.
        Cancelled: out of `report`.
    """
    results = []
    for number, case in enumerate(cases):
        report(Progress(number, len(cases), "cases", case.prompt))
        results.append(_evaluate(decoder, tokenizer, case, max_new_tokens))
    report(Progress(len(cases), len(cases), "cases", "evaluated"))
    return results


def _evaluate(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, case: Case, max_new_tokens: int
) -> CaseResult:
    neighbours = [neighbour.prompt for neighbour in case.neighbours]
    prompts = [case.prompt, *case.paraphrases]
    asked = [(prompt, case.target_new) for prompt in (*prompts, *neighbours)]
    asked += [(neighbour.prompt, neighbour.true) for neighbour in case.neighbours]
    if case.target_true:
        asked += [(prompt, case.target_true) for prompt in prompts]
    scores = score_targets(decoder, tokenizer, asked)
    p, n = len(prompts), len(neighbours)
    trues = scores[p + 2 * n :]
    result = CaseResult(
        case=case,
        new=scores[0],
        true=trues[0] if trues else None,
        paraphrases_new=scores[1:p],
        paraphrases_true=trues[1:],
        neighbours_new=scores[p : p + n],
        neighbours_true=scores[p + n : p + 2 * n],
    )
    if max_new_tokens:
        completions = complete(decoder.model, tokenizer, [*prompts, *neighbours], max_new_tokens)
        result.completion, result.paraphrase_completions = completions[0], completions[1:p]
        result.neighbour_completions = completions[p:]
    return result


def score_targets(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, str]]
) -> list[Score]:
    """Score (prompt, target) pairs under teacher forcing, in their order."""
    rows = [(prompt_ids(tokenizer, prompt), target_ids(tokenizer, target)) for prompt, target in asked]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    scores: dict[int, Score] = {}
    while order:
        longest = len(rows[order[-1]][0]) + len(rows[order[-1]][1])
        batch = [order.pop() for _ in range(min(len(order), max(1, _TOKENS_AT_ONCE // longest)))]
        for i, score in zip(batch, _score_batch(decoder, [rows[i] for i in batch]), strict=True):
            scores[i] = score
    return [scores[i] for i in range(len(rows))]


@torch.no_grad()
def _score_batch(decoder: Decoder, rows: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
    ids, mask = right_padded([prompt + target[:-1] for prompt, target in rows], decoder.device)
    run = decoder.run(ids, mask)
    # Logits only where a target token is predicted.
    places = [(i, len(prompt) - 1 + k) for i, (prompt, target) in enumerate(rows) for k in range(len(target))]
    which = torch.tensor(places, device=decoder.device)
    logits = decoder.logits(run.states[-1][which[:, 0], which[:, 1]][:, None])[:, 0].float()
    wanted = torch.tensor([token for _, target in rows for token in target], device=decoder.device)
    nll = -logits.log_softmax(-1).gather(1, wanted[:, None])[:, 0]
    first = logits.argmax(-1) == wanted
    sizes = [len(target) for _, target in rows]
    return [
        Score(part.mean().item(), bool(hit.all()))
        for part, hit in zip(nll.split(sizes), first.split(sizes), strict=True)
    ]


def summarise(results: Sequence[CaseResult], seed: int) -> dict[str, Metric]:
    """Means over cases with bootstrap intervals; S from the means of its three, also in each bootstrap sample."""
    table = [result.numbers() for result in results]
    draws = np.random.default_rng(seed).integers(0, len(table), size=(_RESAMPLES, len(table)))
    metrics: dict[str, Metric] = {}
    samples: dict[str, np.ndarray] = {}
    for name in ("ES", "PS", "NS", "EM", "PM", "NM", "EA", "PA", "NA", "FE", "FP", "FN"):
        values = np.array([row.get(name, np.nan) for row in table])
        count = int((~np.isnan(values)).sum())
        if count:
            samples[name] = _nanmean(values[draws])
            metrics[name] = _metric(float(np.nanmean(values)), samples[name], count)
    if all(name in metrics for name in ("ES", "PS", "NS")):
        value = _harmonic(*(np.array([metrics[name].value]) for name in ("ES", "PS", "NS")))[0]
        sampled = _harmonic(samples["ES"], samples["PS"], samples["NS"])
        metrics["S"] = _metric(float(value), sampled, min(metrics[name].count for name in ("ES", "PS", "NS")))
    return metrics


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Row means over what is there, `[samples, cases]` -> `[samples]`; a row with nothing stays NaN."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0.0).sum(axis=1)
    return np.divide(total, there.sum(axis=1), out=np.full(len(values), np.nan), where=there.any(axis=1))


def _harmonic(*parts: np.ndarray) -> np.ndarray:
    stacked = np.stack(parts)
    with np.errstate(divide="ignore"):
        return np.where((stacked > 0).all(axis=0), len(parts) / (1.0 / stacked).sum(axis=0), 0.0)


def _metric(value: float, samples: np.ndarray, count: int) -> Metric:
    low, high = np.nanquantile(samples, [0.025, 0.975])
    return Metric(value, float(low), float(high), count)


def _mean(values: Any) -> float:
    return float(np.mean([float(value) for value in values]))


def _begins(completion: str, target: str) -> bool:
    """Whether a completion begins with the target as whole words, whatever the case and spacing."""
    said, wanted = " ".join(completion.split()).casefold(), " ".join(target.split()).casefold()
    rest = said[len(wanted) :]
    return said.startswith(wanted) and not rest[:1].isalnum()
