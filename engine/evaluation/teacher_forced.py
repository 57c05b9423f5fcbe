"""p(target | prompt) under teacher forcing, as memit's eval_utils_counterfact and eval_utils_zsre measure it."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.limits import fitting
from ..model.tokens import prompt_ids, right_padded, target_ids

_TOKENS_AT_ONCE = 2_048


@dataclass(frozen=True)
class Score:
    """A target under teacher forcing: mean negative log-likelihood per token (nats), whether each token is first
    choice, and the share of its `tokens` that are."""

    nll: float
    first_choice: bool
    tokens: float


def score_targets(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, asked: Sequence[tuple[str, str]]
) -> list[Score]:
    """Score (prompt, target) pairs under teacher forcing, in their order."""
    rows = [(prompt_ids(tokenizer, prompt), target_ids(tokenizer, target)) for prompt, target in asked]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    scores: dict[int, Score] = {}
    while order:
        longest = len(rows[order[-1]][0]) + len(rows[order[-1]][1])
        batch = [order.pop() for _ in range(min(len(order), max(1, fitting(_TOKENS_AT_ONCE) // longest)))]
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
        Score(part.mean().item(), bool(hit.all()), hit.float().mean().item())
        for part, hit in zip(nll.split(sizes), first.split(sizes), strict=True)
    ]
