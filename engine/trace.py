"""Causal tracing (Meng et al. 2022, section 2): which states carry a fact.

The clean run gives p(answer) = high; with noise on the subject's embeddings it falls to low; then one state of the
clean run is put back and p(answer) is read again, for every layer and token. Kinds: `hidden` restores one block's
output, `mlp` and `attn` restore that part's output over a window of blocks [l - w/2, l + w/2 - 1].

The numbers are the published ones (softmax per noise sample, then the mean); the way is shorter. What cannot change
is not run: positions left of the restored token keep the corrupted run's keys and values, blocks below the window
are not touched, and all layers of one token climb together in one batch that grows as it climbs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from .anatomy import Role
from .decoder import Decoder, Edit, Run
from .errors import InputError
from .noise import draw
from .progress import Progress, Report, silent
from .tokens import Located, locate_subject, target_ids

Kind = Literal["hidden", "mlp", "attn"]
KINDS: tuple[Kind, ...] = ("hidden", "mlp", "attn")

# Rows x positions of one batch. A larger trace climbs in several batches; out of memory halves a batch.
_TOKENS_AT_ONCE = 16_384


@dataclass(frozen=True)
class TraceSettings:
    """How a fact is traced. `noise` is the standard deviation added to the subject's embeddings."""

    noise: float
    kinds: tuple[Kind, ...] = KINDS
    samples: int = 10
    window: int = 10
    seed: int = 1
    tokens: Literal["all", "subject-last"] = "all"

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in KINDS:
                raise InputError(f"unknown kind {kind!r}; the kinds are {', '.join(KINDS)}")
        if not self.kinds or self.samples < 1 or self.window < 1:
            raise InputError("a trace needs at least one kind, one noise sample and a window of one layer")


@dataclass(frozen=True)
class FactTrace:
    """One traced fact. `scores[kind][token][layer]` is p(answer) with that state restored; None where not traced."""

    prompt: str
    subject: str
    tokens: list[str]
    subject_range: tuple[int, int]
    answer: str
    high: float
    low: float
    scores: dict[Kind, list[list[float | None]]]


@dataclass(frozen=True)
class WrongAnswer:
    """The model's first choice is not what was expected, so there is nothing to trace."""

    prompt: str
    subject: str
    tokens: list[str]
    subject_range: tuple[int, int]
    answer: str
    expected: str
    probability: float

    @property
    def reason(self) -> str:
        return (
            f"the model's first choice is {self.answer!r} (p = {self.probability:.3f}), not {self.expected!r}"
        )


@dataclass
class _Fact:
    """A fact in mid-trace: row 0 of the run is clean, rows 1.. are corrupted."""

    located: Located
    run: Run
    answer: int
    high: float
    low: float


def trace_fact(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    subject: str,
    settings: TraceSettings,
    expected: str | None = None,
    report: Report = silent,
) -> FactTrace | WrongAnswer:
    """Trace one fact. With `expected`, only if the model's first choice begins it.

    Raises:
        InputError: the subject is not in the prompt.
        Cancelled: out of `report`.
    """
    located = locate_subject(tokenizer, prompt, subject)
    fact = _clean_and_corrupted(decoder, located, settings)
    answer = str(tokenizer.decode([fact.answer]))
    if expected is not None and target_ids(tokenizer, expected)[0] != fact.answer:
        where = (located.begin, located.end)
        return WrongAnswer(prompt, subject, located.tokens, where, answer, expected, fact.high)
    scores: dict[Kind, list[list[float | None]]] = {}
    tokens = (
        [located.last] if settings.tokens == "subject-last" else list(range(located.begin, len(located.ids)))
    )
    total = len(tokens) * len(settings.kinds)
    for number, kind in enumerate(settings.kinds):
        table: list[list[float | None]] = [[None] * decoder.layers for _ in located.ids]
        if settings.tokens == "all":
            for token in range(located.begin):  # nothing there was corrupted, so restoring it changes nothing
                table[token] = [fact.low] * decoder.layers
        for done, token in enumerate(tokens):
            report(
                Progress(
                    number * len(tokens) + done, total, "tokens", f"{kind}, token {located.tokens[token]!r}"
                )
            )
            table[token] = list(_restore(decoder, fact, kind, token, settings.window))
        scores[kind] = table
    report(Progress(total, total, "tokens", "traced"))
    return FactTrace(
        prompt, subject, located.tokens, (located.begin, located.end), answer, fact.high, fact.low, scores
    )


def _clean_and_corrupted(decoder: Decoder, located: Located, settings: TraceSettings) -> _Fact:
    begin, end = located.begin, located.end
    ids = torch.tensor([located.ids] * (1 + settings.samples), device=decoder.device)

    def corrupt(embedded: Tensor) -> Tensor:
        noise = draw(settings.samples, end - begin, embedded.shape[-1], settings.noise, settings.seed)
        embedded = embedded.clone()
        embedded[1:, begin:end] += noise.to(embedded)
        return embedded

    parts = [kind for kind in settings.kinds if kind != "hidden"]
    run = decoder.run(ids, embedding_edit=corrupt, capture=parts)
    with torch.no_grad():
        probabilities = decoder.logits(run.states[-1][:, -1:]).float().softmax(-1)[:, 0]
    answer = int(probabilities[0].argmax())
    return _Fact(
        located, run, answer, probabilities[0, answer].item(), probabilities[1:, answer].mean().item()
    )


@dataclass(frozen=True)
class _Variant:
    """One cell: block `first` is the first that runs, and blocks [first, stop) have their part restored.

    For `hidden` the state entering `first` is restored and no block has anything restored.
    """

    layer: int
    first: int
    stop: int


def window_of(layer: int, window: int, layers: int) -> tuple[int, int]:
    """The blocks `[first, stop)` that a window of so many layers around `layer` restores, as published."""
    return max(0, layer - window // 2), min(layers, layer - (-window // 2))


def _restore(decoder: Decoder, fact: _Fact, kind: Kind, token: int, window: int) -> list[float]:
    """p(answer) for each layer, with that layer's (window's) state restored at `token`."""
    layers, last_token = decoder.layers, fact.run.length - 1
    if kind == "hidden":
        # The last block's output at the last token is the clean answer; elsewhere nothing reads it.
        known = {layers - 1: fact.high if token == last_token else fact.low}
        variants = [_Variant(layer, layer + 1, layer + 1) for layer in range(layers - 1)]
    else:
        known = {}
        variants = [_Variant(layer, *window_of(layer, window, layers)) for layer in range(layers)]
    samples, positions = fact.run.input_ids.shape[0] - 1, fact.run.length - token
    most = max(1, _TOKENS_AT_ONCE // (samples * positions))
    for begin in range(0, len(variants), most):
        known.update(_climb_or_halve(decoder, fact, kind, token, variants[begin : begin + most]))
    return [known[layer] for layer in range(layers)]


def _climb_or_halve(
    decoder: Decoder, fact: _Fact, kind: Kind, token: int, variants: Sequence[_Variant]
) -> dict[int, float]:
    try:
        return _climb(decoder, fact, kind, token, variants)
    except torch.OutOfMemoryError:
        if len(variants) == 1:
            raise
    torch.cuda.empty_cache()
    half = len(variants) // 2
    return _climb_or_halve(decoder, fact, kind, token, variants[:half]) | _climb_or_halve(
        decoder, fact, kind, token, variants[half:]
    )


@torch.no_grad()
def _climb(
    decoder: Decoder, fact: _Fact, kind: Kind, token: int, variants: Sequence[_Variant]
) -> dict[int, float]:
    """Take all variants up to the head together; each joins the batch at the first block that it changes."""
    run = fact.run
    resumption = decoder.resume(run, token)
    corrupted = torch.arange(1, run.input_ids.shape[0], device=decoder.device)
    samples = len(corrupted)
    hidden, rows, joined = run.states[0].new_empty(0), corrupted[:0], list[_Variant]()
    for block in range(min(variant.first for variant in variants), decoder.layers):
        joining = [variant for variant in variants if variant.first == block]
        if joining:
            entering = resumption.entering(block, corrupted)
            if kind == "hidden":
                entering[:, 0] = run.states[block][0, token]
            parts = [entering] * len(joining)
            hidden = torch.cat([hidden, *parts]) if joined else torch.cat(parts)
            joined += joining
            rows = corrupted.repeat(len(joined))
        edits: dict[Role, Edit] = {}
        restored = [i for i, variant in enumerate(joined) if variant.first <= block < variant.stop]
        if restored and kind != "hidden":
            clean = run.captured[kind][block][0, token]
            chosen = torch.tensor(
                [i * samples + s for i in restored for s in range(samples)], device=decoder.device
            )

            edits[kind] = _putting_back(clean, chosen)
        hidden = resumption.step(block, hidden, rows, edits)
    probabilities = decoder.logits(hidden[:, -1:]).float().softmax(-1)[:, 0, fact.answer]
    means = probabilities.view(len(joined), samples).mean(1).tolist()
    return {variant.layer: score for variant, score in zip(joined, means, strict=True)}


def _putting_back(clean: Tensor, rows: Tensor) -> Edit:
    """Give some rows the clean state at the resumption's first position."""

    def edit(output: Tensor) -> Tensor:
        output = output.clone()
        output[rows, 0] = clean
        return output

    return edit
