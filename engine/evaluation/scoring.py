"""Scores of single prompts: teacher-forced targets, and two probes that the published metrics do not cover.

`score_targets` measures p(target | prompt) as memit's eval_utils_counterfact and eval_utils_zsre do. The probes are the
negated prompt and the chat turn. An edit that only ties the subject to the new object also answers
"X is not located in" with the new object (arXiv 2510.00625).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.generation import complete
from ..model.limits import scaled_batch
from ..model.tokens import encode_prompt, encode_target, encode_user_turn, pad_right

_BATCH_TOKENS = 2_048

NEGATION_RULE = (
    "'not' after the last is, are, was, were or can of the prompt (not of a question), or the fact's own "
    "negations"
)
_COPULA = re.compile(r"\b(is|are|was|were|can)\b(?! not\b)(?!.*\b(?:is|are|was|were|can)\b)", re.DOTALL)

_CHAT_MESSAGE = "Complete the sentence: {prompt} ..."
CHAT_RULE = (
    f"user turn {_CHAT_MESSAGE!r}, or the prompt itself if it is a question; greedy; counted if the reply contains the "
    "target as whole words"
)


@dataclass(frozen=True)
class Score:
    """A teacher-forced target. `nll` is the mean negative log-likelihood per token in nats.

    `first_choice`: every target token is the argmax. `token_accuracy`: the share of target tokens that are.
    `first_token`: the first target token is.
    """

    nll: float
    first_choice: bool
    token_accuracy: float
    first_token: bool


def score_targets(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, pairs: Sequence[tuple[str, str]]
) -> list[Score]:
    """Score (prompt, target) pairs under teacher forcing. Returns one `Score` per pair, in their order.

    Raises:
        InputError: a prompt or a target has no tokens.
    """
    rows = [(encode_prompt(tokenizer, prompt), encode_target(tokenizer, target)) for prompt, target in pairs]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    scores: dict[int, Score] = {}
    while order:
        longest = len(rows[order[-1]][0]) + len(rows[order[-1]][1])
        size = min(len(order), max(1, scaled_batch(_BATCH_TOKENS) // longest))
        batch = [order.pop() for _ in range(size)]
        scores |= zip(batch, _score_batch(decoder, [rows[i] for i in batch]), strict=True)
    return [scores[i] for i in range(len(rows))]


@torch.no_grad()
def _score_batch(decoder: Decoder, rows: Sequence[tuple[list[int], list[int]]]) -> list[Score]:
    ids, mask = pad_right([prompt + target[:-1] for prompt, target in rows], decoder.device)
    run = decoder.run(ids, mask)
    # Compute logits only at the positions that predict a target token.
    positions = [
        (i, len(prompt) - 1 + k) for i, (prompt, target) in enumerate(rows) for k in range(len(target))
    ]
    index = torch.tensor(positions, device=decoder.device)
    logits = decoder.logits(run.states[-1][index[:, 0], index[:, 1]][:, None])[:, 0].float()
    targets = torch.tensor([token for _, target in rows for token in target], device=decoder.device)
    nll = -logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    is_first = logits.argmax(-1) == targets
    sizes = [len(target) for _, target in rows]
    return [
        Score(part.mean().item(), bool(hits.all()), hits.float().mean().item(), bool(hits[0]))
        for part, hits in zip(nll.split(sizes), is_first.split(sizes), strict=True)
    ]


def negate(template: str) -> str | None:
    """Insert "not" after the last copula of a template. None for a question, or if the template has no copula.

    In "the city that was ... is" the object follows the last copula. The template holds `{}` in place of the subject,
    so a word of the subject is never negated.
    """
    if template.rstrip().endswith("?") or not _COPULA.search(template):
        return None
    return _COPULA.sub(r"\1 not", template, count=1)


def build_user_message(prompt: str) -> str:
    """The user turn for a prompt: a question stays as it is, any other prompt is to be completed."""
    return prompt if prompt.rstrip().endswith("?") else _CHAT_MESSAGE.format(prompt=prompt.rstrip())


def generate_replies(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str | None]:
    """The model's greedy reply to a user turn for each prompt. None if the tokenizer has no chat template."""
    if not tokenizer.chat_template:
        return [None] * len(prompts)
    rows = [encode_user_turn(tokenizer, build_user_message(prompt)) for prompt in prompts]
    return list(complete(decoder.model, tokenizer, rows, max_new_tokens))
