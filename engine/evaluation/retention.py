"""Retention: whether the requests of earlier edits still hold after later edits."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.generation import complete
from ..model.limits import scaled_batch
from ..progress import Progress, Report
from .matching import begins_with
from .scoring import score_targets

RETENTION_RULE = (
    "each request of the live edits before this revision, except those that a later edit rewrites: every target token"
    " first choice (RA), greedy generation begins with the target (FR)"
)
_BATCH_PROMPTS = 64


@dataclass(frozen=True)
class EarlierRequest:
    """A request that an edit wrote: the edit's revision, the complete prompt, and the target."""

    edit: str
    prompt: str
    target: str


@dataclass(frozen=True)
class RetentionResult:
    """Whether a request holds.

    `first_token`: the first target token is the argmax. `first_choice`: so is every target token. `free`: the greedy
    completion begins with the target.
    """

    request: EarlierRequest
    first_token: bool
    first_choice: bool
    free: bool
    completion: str

    def metrics(self) -> dict[str, float]:
        return {"RA": float(self.first_choice), "FR": float(self.free)}


def measure_retention(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[EarlierRequest],
    max_new_tokens: int,
    report: Report,
    activity: str = "scoring earlier edits",
) -> list[RetentionResult]:
    """Score requests on the model's current weights."""
    results = []
    size = scaled_batch(_BATCH_PROMPTS)
    for begin in range(0, len(requests), size):
        report(Progress(begin, len(requests), "requests", activity))
        batch = requests[begin : begin + size]
        scores = score_targets(decoder, tokenizer, [(one.prompt, one.target) for one in batch])
        texts = complete(decoder.model, tokenizer, [one.prompt for one in batch], max_new_tokens)
        for one, score, text in zip(batch, scores, texts, strict=True):
            free = begins_with(text, one.target)
            results.append(RetentionResult(one, score.first_token, score.first_choice, free, text))
    return results


def count_by_edit(results: Sequence[RetentionResult]) -> list[dict[str, Any]]:
    """For each edit, in the order of the history, the number of its requests and of those that hold."""
    rows = []
    for edit in dict.fromkeys(one.request.edit for one in results):
        group = [one for one in results if one.request.edit == edit]
        first, free = sum(one.first_choice for one in group), sum(one.free for one in group)
        rows.append({"edit": edit, "requests": len(group), "first_choice": first, "free": free})
    return rows
