"""How far the weights have moved the model elsewhere: KL from the base, and the perplexity of held-out texts."""

import hashlib
import json
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
from ..model.limits import fitting
from ..model.tokens import prompt_ids, right_padded
from ..progress import Progress, Report
from .intervals import Metric, summarize_ratio, summarize_rows

HELD_OUT = "held-out"
_TOKENS_AT_ONCE = 2_048
_MOST_TOKENS = 4_096
_LONGEST = 512
_OPENING_WORDS = 12
_SEED = 1


@dataclass(frozen=True)
class HeldOut:
    """Texts as token ids, 4096 tokens in all, and the openings of the same texts (12 words each)."""

    rows: list[list[int]]
    openings: list[str]
    source: str
    revision: str


def held_out(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, source: str = HELD_OUT) -> HeldOut:
    """The first 4096 tokens of a source in the order of seed 1; of a text 512 at most, or what the model takes.

    `held-out` are texts that retcon ships for this and no second moment is collected from; else as `open_corpus`.

    Raises:
        InputError: the source cannot be opened.
    """
    corpus = _shipped() if source == HELD_OUT else open_corpus(source)
    rows: list[list[int]] = []
    openings: list[str] = []
    left = _MOST_TOKENS
    longest = min(_LONGEST, getattr(decoder.model.config, "max_position_embeddings", _LONGEST))
    for text in corpus.documents(_SEED):
        ids = prompt_ids(tokenizer, text)[: min(longest, left)]
        if len(ids) < 2:  # nothing is predicted in it
            continue
        rows.append(ids)
        openings.append(" ".join(text.split()[:_OPENING_WORDS]))
        left -= len(ids)
        if left < 2:
            break
    return HeldOut(rows, openings, corpus.source, corpus.revision)


def _shipped() -> Corpus:
    data = resources.files("retcon.engine.covariance.texts").joinpath("held_out.json").read_bytes()
    return Corpus(HELD_OUT, hashlib.sha256(data).hexdigest(), [one["text"] for one in json.loads(data)])


@torch.no_grad()
def next_log_probs(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> Tensor:
    """log p(next token | prompt), float32 on the CPU `[prompts, vocabulary]`."""
    rows = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    parts = []
    for begin, end in _batches(rows):
        ids, mask = right_padded(rows[begin:end], decoder.device)
        last = torch.tensor([len(row) - 1 for row in rows[begin:end]], device=decoder.device)
        states = decoder.run(ids, mask).states[-1]
        logits = decoder.logits(states[torch.arange(end - begin, device=decoder.device), last][:, None])
        parts.append(logits[:, 0].float().log_softmax(-1).cpu())
    return torch.cat(parts)


def divergences(base: Tensor, now: Tensor) -> list[float]:
    """KL(base || now) of each row of log probabilities `[prompts, vocabulary]`, in nats."""
    return (base.exp() * (base - now)).sum(-1).clamp_min(0).tolist()


@torch.no_grad()
def text_nlls(decoder: Decoder, rows: Sequence[Sequence[int]]) -> list[float]:
    """Sum of the negative log-likelihoods (nats) of all tokens of a text but its first."""
    sums: list[float] = []
    for begin, end in _batches(rows):
        ids, mask = right_padded(rows[begin:end], decoder.device)
        states = decoder.run(ids, mask).states[-1]
        for number, row in enumerate(rows[begin:end]):
            logits = decoder.logits(states[number : number + 1, : len(row) - 1])[0].float()
            wanted = ids[number, 1 : len(row), None]
            sums.append(-logits.log_softmax(-1).gather(1, wanted).double().sum().item())
    return sums


@dataclass(frozen=True)
class Drift:
    """What was measured on held-out texts; lists run over the texts; None is what was not."""

    texts: HeldOut
    divergences: list[float] | None
    nlls: list[float] | None
    base_nlls: list[float] | None

    def metrics(self, seed: int) -> dict[str, Metric]:
        """KG, PPL and PD, where they were measured, with intervals over the texts."""
        found = summarize_rows([{"KG": one} for one in self.divergences], seed) if self.divergences else {}
        if self.nlls is not None:
            predicted = [len(row) - 1 for row in self.texts.rows]
            found |= summarize_ratio(self.nlls, predicted, self.base_nlls, seed)
        return found

    def protocol(self) -> dict[str, Any]:
        """What the texts were, and how they were read."""
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
    """KL on the openings of held-out texts and, if asked for, perplexity of the texts, at the base and now.

    `at_base()` is a context in which the model has the base's weights; None if it is the base.
    """
    texts = held_out(decoder, tokenizer, source)

    def read(activity: str) -> tuple[Tensor | None, list[float] | None]:
        report(Progress(0, None, "", activity))
        probabilities = next_log_probs(decoder, tokenizer, texts.openings) if at_base else None
        return probabilities, text_nlls(decoder, texts.rows) if perplexity else None

    before, base_nlls = None, None
    if at_base:
        with at_base():
            before, base_nlls = read("reading held-out texts at the base")
    now, nlls = read("reading held-out texts")
    apart = divergences(before, now) if before is not None and now is not None else None
    return Drift(texts, apart, nlls, base_nlls)


def _batches(rows: Sequence[Sequence[int]]) -> list[tuple[int, int]]:
    """Consecutive rows that are run together: `[begin, end)`."""
    size = max(1, fitting(_TOKENS_AT_ONCE) // max((len(row) for row in rows), default=1))
    return [(begin, min(begin + size, len(rows))) for begin in range(0, len(rows), size)]
