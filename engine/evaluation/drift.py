"""Drift of the model away from the edited facts: KL from the base, and perplexity, on held-out texts."""

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import resources
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..covariance.corpus import Corpus, open_corpus
from ..model.decoder import Decoder
from ..model.limits import scaled_batch
from ..model.tokens import encode_prompt, pad_right
from ..progress import Progress, Report
from .intervals import Metric, summarize_ratio, summarize_rows

HELD_OUT = "held-out"
_BATCH_TOKENS = 2_048
_TOTAL_TOKENS = 4_096
_MAX_LENGTH = 512
_OPENING_WORDS = 12
_SEED = 1


@dataclass(frozen=True)
class HeldOutTexts:
    """Texts as token ids, 4096 tokens in all, and the first 12 words of each text."""

    rows: list[list[int]]
    openings: list[str]
    source: str
    revision: str

    def perplexity(self, nlls: Sequence[float]) -> float:
        """exp of the mean NLL per predicted token, from the sums of `compute_text_nlls`."""
        return math.exp(sum(nlls) / sum(self.predicted_tokens))

    @property
    def predicted_tokens(self) -> list[int]:
        """The number of predicted tokens of each text: all but the first."""
        return [len(row) - 1 for row in self.rows]


def load_held_out_texts(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, source: str = HELD_OUT
) -> HeldOutTexts:
    """Load the first 4096 tokens of a source, shuffled with seed 1.

    Each text has at most 512 tokens, or the model's context length. The source `held-out` ships with retcon; no second
    moment is collected from it. Any other source is opened by `open_corpus`.

    Raises:
        InputError: the source cannot be opened.
    """
    corpus = _open_shipped() if source == HELD_OUT else open_corpus(source)
    rows: list[list[int]] = []
    openings: list[str] = []
    left = _TOTAL_TOKENS
    longest = min(_MAX_LENGTH, getattr(decoder.model.config, "max_position_embeddings", _MAX_LENGTH))
    for text in corpus.documents(_SEED):
        ids = encode_prompt(tokenizer, text)[: min(longest, left)]
        if len(ids) < 2:  # a text of one token predicts nothing
            continue
        rows.append(ids)
        openings.append(" ".join(text.split()[:_OPENING_WORDS]))
        left -= len(ids)
        if left < 2:
            break
    return HeldOutTexts(rows, openings, corpus.source, corpus.revision)


def _open_shipped() -> Corpus:
    data = resources.files("retcon.engine.covariance.texts").joinpath("held_out.json").read_bytes()
    return Corpus(HELD_OUT, hashlib.sha256(data).hexdigest(), [one["text"] for one in json.loads(data)])


@torch.no_grad()
def compute_next_log_probs(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]
) -> Tensor:
    """log p(next token | prompt), float32 on the CPU `[prompts, vocabulary]`."""
    rows = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    parts = []
    for begin, end in _split_batches(rows):
        ids, mask = pad_right(rows[begin:end], decoder.device)
        last = torch.tensor([len(row) - 1 for row in rows[begin:end]], device=decoder.device)
        states = decoder.run(ids, mask).states[-1]
        logits = decoder.logits(states[torch.arange(end - begin, device=decoder.device), last][:, None])
        parts.append(logits[:, 0].float().log_softmax(-1).cpu())
    return torch.cat(parts)


def compute_kl(base: Tensor, edited: Tensor) -> list[float]:
    """KL(base || edited) in nats for each row of log probabilities `[prompts, vocabulary]`."""
    return (base.exp() * (base - edited)).sum(-1).clamp_min(0).tolist()


@torch.no_grad()
def compute_text_nlls(decoder: Decoder, rows: Sequence[Sequence[int]]) -> list[float]:
    """For each text, the sum of the negative log-likelihoods (nats) of all its tokens but the first."""
    sums: list[float] = []
    for begin, end in _split_batches(rows):
        ids, mask = pad_right(rows[begin:end], decoder.device)
        states = decoder.run(ids, mask).states[-1]
        for number, row in enumerate(rows[begin:end]):
            logits = decoder.logits(states[number : number + 1, : len(row) - 1])[0].float()
            targets = ids[number, 1 : len(row), None]
            sums.append(-logits.log_softmax(-1).gather(1, targets).double().sum().item())
    return sums


@dataclass(frozen=True)
class Drift:
    """Results on held-out texts. Each list runs over the texts; a result is None if it was not measured."""

    texts: HeldOutTexts
    divergences: list[float] | None
    nlls: list[float] | None
    base_nlls: list[float] | None

    def metrics(self, seed: int) -> dict[str, Metric]:
        """The measured ones of KG, PPL and PD, with bootstrap intervals over the texts."""
        metrics = summarize_rows([{"KG": one} for one in self.divergences], seed) if self.divergences else {}
        if self.nlls is not None:
            metrics |= summarize_ratio(self.nlls, self.texts.predicted_tokens, self.base_nlls, seed)
        return metrics

    def protocol(self) -> dict[str, Any]:
        """The texts, and how the numbers were computed from them."""
        rules: dict[str, Any] = {}
        if self.divergences or self.nlls is not None:
            rules |= {"texts": self.texts.source, "texts_sha256": self.texts.revision}
        if self.divergences:
            rules["openings"] = f"the first {_OPENING_WORDS} words of {len(self.texts.openings)} texts"
        if self.nlls is not None:
            tokens = sum(map(len, self.texts.rows))
            rules["perplexity"] = (
                f"exp(mean NLL of all tokens but each text's first), the first {tokens} tokens"
            )
        return rules


def measure_drift(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    source: str,
    at_base: Callable[[], AbstractContextManager[None]] | None,
    *,
    perplexity: bool,
    report: Report,
) -> Drift:
    """Measure KL on the openings of held-out texts and, if requested, perplexity, at the base and now.

    `at_base()` is a context in which the model has the base's weights. It is None if the model is the base.
    """
    texts = load_held_out_texts(decoder, tokenizer, source)

    def read(activity: str) -> tuple[Tensor | None, list[float] | None]:
        report(Progress(0, None, "", activity))
        log_probs = compute_next_log_probs(decoder, tokenizer, texts.openings) if at_base else None
        return log_probs, compute_text_nlls(decoder, texts.rows) if perplexity else None

    base, base_nlls = None, None
    if at_base:
        with at_base():
            base, base_nlls = read("reading held-out texts at the base")
    edited, nlls = read("reading held-out texts")
    divergences = compute_kl(base, edited) if base is not None and edited is not None else None
    return Drift(texts, divergences, nlls, base_nlls)


def _split_batches(rows: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Ranges `[begin, end)` of consecutive rows that run as one batch."""
    size = max(1, scaled_batch(_BATCH_TOKENS) // max((len(row) for row in rows), default=1))
    return [(begin, min(begin + size, len(rows))) for begin in range(0, len(rows), size)]
