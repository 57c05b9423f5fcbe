"""The published methods in their plain, slow form: full forward passes for one cell, one layer, one document at a time.

Written from the papers (Meng et al. 2022 and 2023; Gupta et al. 2024) and from notes on the published code. Uses only
the names of a model's parts from the engine, and none of its optimizations.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from retcon.engine.edits.hparams.base import ValueSearchHparams
from retcon.engine.edits.method import Request
from retcon.engine.model.anatomy import Anatomy


@contextmanager
def hooked(module: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """`change` maps the output of the module, alone or first in a tuple."""

    def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
        return (change(output[0]), *output[1:]) if isinstance(output, tuple) else change(output)

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def reading_input(module: nn.Module, into: list[Tensor]) -> Iterator[None]:
    """Append the inputs of the module to `into`."""
    handle = module.register_forward_pre_hook(lambda _module, args: into.append(args[0].detach().clone()))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def reading_output(module: nn.Module, into: list[Tensor]) -> Iterator[None]:
    """Append copies of the module's outputs to `into`; Falcon adds to the outputs in place."""

    def note(output: Tensor) -> Tensor:
        into.append(output.detach().clone())
        return output

    with hooked(module, note):
        yield


# Causal tracing


@dataclass
class PlainTrace:
    answer: int
    high: float
    low: float
    # kind and window -> [token][layer]
    scores: dict[tuple[str, int], list[list[float]]] = field(default_factory=dict)


@dataclass
class _PlainTracer:
    """A model, the rows of one fact (row 0 is clean), and the corruption of their embeddings."""

    model: PreTrainedModel
    anatomy: Anatomy
    rows: list[list[int]]
    corrupt: Callable[[Tensor], Tensor] | None

    def parts(self, kind: str) -> list[str]:
        """Names of the MLPs or attentions of all blocks."""
        part = self.anatomy.mlp if kind.endswith("mlp") else self.anatomy.attention
        return [f"{self.anatomy.blocks}.{layer}.{part}" for layer in range(self.anatomy.layers)]

    def run(self, changes: dict[str, Callable[[Tensor], Tensor]]) -> Tensor:
        """Probabilities `[rows, vocabulary]` at the last token, with changed outputs of the named modules."""
        start = {self.anatomy.embedding: self.corrupt} if self.corrupt is not None else {}
        with torch.no_grad(), hooked_all(self.model, start | changes):
            return self.model(torch.tensor(self.rows)).logits[:, -1].softmax(-1)

    def put(self, token: int, source: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        """Replace the states of the corrupted rows at a token by `source(table)`, for a table `[rows, T, d]`."""

        def change(output: Tensor) -> Tensor:
            table = output.clone().view(len(self.rows), len(self.rows[0]), -1)
            table[1:, token] = source(table)
            return table.view(output.shape)

        return change

    def clean(self, token: int) -> Callable[[Tensor], Tensor]:
        return self.put(token, lambda table: table[0, token].clone())

    def record_parts(self, kind: str) -> dict[str, Tensor]:
        """Outputs of the parts in the corrupted run, `[rows, T, d]` (the published first pass)."""
        outputs: dict[str, Tensor] = {}

        def recorder(name: str) -> Callable[[Tensor], Tensor]:
            def record(output: Tensor) -> Tensor:
                outputs[name] = output.detach().clone().view(len(self.rows), len(self.rows[0]), -1)
                return output

            return record

        self.run({name: recorder(name) for name in self.parts(kind)})
        return outputs

    def restoration(
        self, kind: str, window: int, token: int, layer: int, first_pass: dict[str, Tensor]
    ) -> dict[str, Callable[[Tensor], Tensor]]:
        """The changes of module outputs that restore one cell."""
        if kind in ("mlp", "attn"):
            first, stop = max(0, layer - window // 2), min(self.anatomy.layers, layer - (-window // 2))
            return {name: self.clean(token) for name in self.parts(kind)[first:stop]}
        # Parts keep the output of the first pass. The restored block runs after its parts and overrides them.
        changes = {
            name: self.put(token, lambda _table, output=output: output[1:, token])
            for name, output in first_pass.items()
        }
        return changes | {f"{self.anatomy.blocks}.{layer}": self.clean(token)}


def plain_trace(
    model: PreTrainedModel,
    anatomy: Anatomy,
    rows: list[list[int]],
    corrupt: Callable[[Tensor], Tensor] | None,
    kinds: Sequence[tuple[str, int]],
) -> PlainTrace:
    """The published loops: one pass of all rows for each kind (with its window), token and layer. Row 0 is clean.

    `corrupt` changes the embeddings `[rows, T, d]`. If it is None, the corrupted rows have other tokens.
    """
    tracer = _PlainTracer(model, anatomy, rows, corrupt)
    unrestored = tracer.run({})
    answer = int(unrestored[0].argmax())
    trace = PlainTrace(answer, unrestored[0, answer].item(), unrestored[1:, answer].mean().item())
    for kind, window in kinds:
        first_pass = tracer.record_parts(kind) if kind.startswith("severed") else {}

        trace.scores[kind, window] = [
            [
                tracer.run(tracer.restoration(kind, window, token, layer, first_pass))[1:, answer]
                .mean()
                .item()
                for layer in range(anatomy.layers)
            ]
            for token in range(len(rows[0]))
        ]
    return trace


def adding(drawn: np.ndarray, begin: int, *, replace: bool = False) -> Callable[[Tensor], Tensor]:
    """Add noise `[samples, tokens, d]` to the subject's embeddings of all rows but the first, or replace them by it."""

    def corrupt(embedded: Tensor) -> Tensor:
        embedded, noise = embedded.clone(), torch.from_numpy(drawn).to(embedded)
        end = begin + drawn.shape[1]
        embedded[1:, begin:end] = noise if replace else embedded[1:, begin:end] + noise
        return embedded

    return corrupt


@contextmanager
def hooked_all(model: nn.Module, changes: dict[str, Callable[[Tensor], Tensor]]) -> Iterator[None]:
    """`hooked` for several modules, by name."""
    if not changes:
        yield
        return
    (name, change), *others = changes.items()
    with hooked(model.get_submodule(name), change), hooked_all(model, dict(others)):
        yield


# The second moment of keys


def plain_second_moment(
    model: PreTrainedModel, anatomy: Anatomy, documents: Sequence[list[int]], layer: int
) -> Tensor:
    """E[k k^T] of one layer, one document at a time, float64."""
    matrix = model.get_submodule(f"{anatomy.blocks}.{layer}.{anatomy.matrix}")
    total, tokens = torch.zeros(anatomy.key_width, anatomy.key_width, dtype=torch.float64), 0
    for document in documents:
        entered: list[Tensor] = []
        with torch.no_grad(), reading_input(matrix, entered):
            model(torch.tensor([document]))
        for key in entered[0].view(len(document), -1).double():
            total += torch.outer(key, key)
        tokens += len(document)
    return total / tokens


# ROME and r-ROME


@dataclass
class PlainValue:
    """v* is `initial + delta`. `prompts` are the ids of the request in each context and the subject's last index."""

    losses: list[float]
    initial: Tensor
    delta: Tensor
    prompts: list[tuple[list[int], int]]


@dataclass
class _ValueRows:
    """Right-padded rows of a search: the request in each context, then the essence prompt.

    `at` is the index of the subject's last token in each row; `prompts` are the contexts' ids and that index.
    """

    target: list[int]
    prompts: list[tuple[list[int], int]]
    ids: Tensor
    mask: Tensor
    at: list[int]

    def nll(self, log_probabilities: Tensor) -> Tensor:
        """Mean negative log-likelihood of the target over its tokens and the contexts."""
        rows = [
            -sum(log_probabilities[i, len(ids) - 1 + j, token] for j, token in enumerate(self.target))
            / len(self.target)
            for i, (ids, _) in enumerate(self.prompts)
        ]
        return torch.stack(rows).mean()


def _value_rows(tokenizer: PreTrainedTokenizerBase, request: Request, contexts: Sequence[str]) -> _ValueRows:
    target = tokenizer(" " + request.target_new.strip(), add_special_tokens=False)["input_ids"]

    def with_subject(template: str) -> tuple[list[int], int]:
        """Ids of a filled template, and the index of the subject's last token."""
        before, after = template.split("{}", 1)
        encoding = tokenizer(before + request.subject + after)
        return list(encoding["input_ids"]), encoding.char_to_token(len(before) + len(request.subject) - 1)

    prompts = [with_subject(context.replace("{}", request.prompt)) for context in contexts]
    essence, essence_at = with_subject("{} is a")
    rows = [ids + target[:-1] for ids, _ in prompts] + [essence]
    longest = max(map(len, rows))
    return _ValueRows(
        target,
        prompts,
        torch.tensor([row + [0] * (longest - len(row)) for row in rows]),
        torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows]),
        [index for _, index in prompts] + [essence_at],
    )


def plain_value(
    model: PreTrainedModel,
    module: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    hparams: ValueSearchHparams,
    contexts: Sequence[str],
) -> PlainValue:
    """The published search: full passes over right-padded rows, with a vector added to the output of `module`."""
    rows = _value_rows(tokenizer, request, contexts)
    initial: list[Tensor] = []
    delta = torch.zeros(model.get_input_embeddings().weight.shape[1], requires_grad=True)

    def add_delta(output: Tensor) -> Tensor:
        states = output.view(*rows.ids.shape, -1)
        if not initial:
            initial.append(states[0, rows.at[0]].detach().clone())
        added = torch.zeros_like(states)
        added[torch.arange(len(rows.at)), torch.tensor(rows.at)] = 1
        return (states + added * delta).view(output.shape)

    optimizer = torch.optim.Adam([delta], lr=hparams.v_lr)
    essence_before: Tensor | None = None
    losses = []
    for step in range(hparams.v_num_grad_steps):
        optimizer.zero_grad()
        with hooked(module, add_delta):
            log_probabilities = model(rows.ids, attention_mask=rows.mask).logits.log_softmax(-1)
        essence_now = log_probabilities[-1, rows.at[-1]]
        if essence_before is None:
            essence_before = essence_now.detach().clone()
        # As in the paper and the published code: KL(with delta || without).
        kl = (essence_now.exp() * (essence_now - essence_before)).sum()
        decay = delta.norm() / initial[0].norm() ** 2
        loss = rows.nll(log_probabilities) + hparams.kl_factor * kl + hparams.v_weight_decay * decay
        losses.append(loss.item())
        if loss < 0.05 or step == hparams.v_num_grad_steps - 1:
            break
        loss.backward()
        optimizer.step()
        bound = hparams.clamp_norm_factor * initial[0].norm()
        if delta.norm() > bound:
            with torch.no_grad():
                delta.copy_(delta * bound / delta.norm())
    return PlainValue(losses, initial[0], delta.detach(), rows.prompts)


@dataclass
class PlainEdit:
    """`change` `[out, in]` is added to W in `out = W k`; v* is `initial + delta`."""

    change: Tensor
    losses: list[float]
    initial: Tensor
    delta: Tensor


def plain_rome(
    model: PreTrainedModel,
    matrix: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    hparams: ValueSearchHparams,
    contexts: Sequence[str],
    moment: Tensor | None,
    *,
    corrected: bool,
) -> PlainEdit:
    """One published edit. `corrected` selects r-ROME, which averages over the contexts on both sides.

    `contexts` are templates, `{}` first. `moment` is C; None uses the identity.
    """
    value = plain_value(model, matrix, tokenizer, request, hparams, contexts)

    # Keys and current outputs, one context at a time.
    keys, outputs = [], []
    for ids, index in value.prompts:
        entered: list[Tensor] = []
        left: list[Tensor] = []
        with torch.no_grad(), reading_input(matrix, entered), reading_output(matrix, left):
            model(torch.tensor([ids]))
        keys.append(entered[0].view(len(ids), -1)[index].double())
        outputs.append(left[0].view(len(ids), -1)[index].double())
    average = torch.stack(keys).mean(0)
    u = average if moment is None else torch.linalg.inv(moment.double()) @ average
    u = u / u.norm()
    key, output = (average, torch.stack(outputs).mean(0)) if corrected else (keys[0], outputs[0])
    right = (value.initial.double() + value.delta.double() - output) / (key @ u)
    return PlainEdit(torch.outer(right, u), value.losses, value.initial, value.delta)
