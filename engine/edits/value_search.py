"""The search for v*: the state at the subject's last token for which the model predicts the target.

A vector d is added there, to the output of the edited matrix (ROME) or of the block (MEMIT), in the bare prompt and
in every context. Adam changes d until the target is likely, while the next-token distribution after "{subject} is a"
is preserved (Meng et al. 2022, section 3.1 and appendix E.5; 2023, section 4.3). All requests are searched in one
batch. Each has a vector of its own and stops independently. Rows are padded so that all subjects end at one position.
Only blocks from the edited one on and positions from there on are run, and logits are computed only where the loss
reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..errors import InputError
from ..model.decoder import Decoder, Resumption, Run
from ..model.limits import search_tokens
from ..model.tokens import encode_target, pad_aligned
from .hparams.base import Hparams, ValueSearchHparams
from .method import ESSENCE_PROMPT, EditTask, Request, Value, locate_subject

# The module whose output the vector is added to.
Place = Literal["matrix", "block"]

_TARGET_LOSS = 0.05


def check_request(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, request: Request, layer: int, hparams: Hparams
) -> None:
    """Check a request before a second moment is collected for it.

    Raises:
        InputError: the layer is out of range, or the target tokenizes to nothing.
    """
    last = decoder.layers - 1
    if not 0 <= layer <= last:
        raise InputError(f"layer {layer} is out of range: this model has layers 0 to {last}")
    if isinstance(hparams, ValueSearchHparams) and hparams.v_loss_layer not in (None, last):
        raise InputError(
            f"v_loss_layer is {hparams.v_loss_layer}, but the loss is read after the last layer, {last}"
        )
    encode_target(tokenizer, request.target_new)


# Called after each step of a batch with the requests finished before it, the share of the batch's steps, and the mean
# loss. It may raise to stop the search.
OnStep = Callable[[int, float, float], None]


def find_values(
    task: EditTask[ValueSearchHparams], layer: int, on_step: OnStep, place: Place = "matrix"
) -> list[Value]:
    """Search v* for each request of a task at one layer. Values in the task's checkpoint are not searched again.

    Raises:
        InputError: the layer is out of range, or a target tokenizes to nothing.
    """
    decoder, requests = task.decoder, task.requests
    rows = [_build_rows(task, request, layer) for request in requests]
    # Each step runs the positions after the subject, padded to the longest of the batch, so batch by length.
    order = sorted(range(len(rows)), key=lambda number: rows[number].positions)
    values: dict[int, Value] = {}
    while len(values) < len(requests):
        begin = len(values)
        numbers = order[begin:]
        batch_values = task.checkpoint.load_values(begin)
        if not batch_values:
            count = _batch_size([rows[number] for number in numbers], search_tokens(decoder.device.type))

            def report(share: float, loss: float, begin: int = begin, count: int = count) -> None:
                on_step(begin, share * count, loss)

            batch = _Batch(decoder, [rows[number] for number in numbers[:count]])
            batch_values = _Search(decoder, batch, layer, task.hparams, place).run(report)
            task.checkpoint.save_values(begin, batch_values)
        values |= zip(numbers, batch_values, strict=False)
    return [values[number] for number in range(len(requests))]


@dataclass(frozen=True)
class _RequestRows:
    """The token rows of one request: the prompt in each context with all but the last target token, then the essence
    prompt ("SUBJECT is a"). `ends[row]` is the position of the subject's last token."""

    ids: list[list[int]]
    ends: list[int]
    target: list[int]

    @property
    def prompts(self) -> int:
        return len(self.ids) - 1

    @property
    def positions(self) -> int:
        """Positions that each step runs, from the subject's last token on."""
        return max(len(row) - end for row, end in zip(self.ids, self.ends, strict=True))


def _build_rows(task: EditTask[Any], request: Request, layer: int) -> _RequestRows:
    check_request(task.decoder, task.tokenizer, request, layer, task.hparams)
    target = encode_target(task.tokenizer, request.target_new)
    prompts = [request.locate(task.tokenizer, context) for context in task.contexts]
    essence = locate_subject(task.tokenizer, ESSENCE_PROMPT, request.subject)
    # The last target token is predicted, never read.
    ids = [*(prompt.ids + target[:-1] for prompt in prompts), essence.ids]
    return _RequestRows(ids, [located.last for located in (*prompts, essence)], target)


def _batch_size(requests: Sequence[_RequestRows], max_tokens: int) -> int:
    """The number of next requests that fit into `max_tokens`, padded to the longest. At least 1."""
    rows = count = longest = 0
    for request in requests:
        rows, longest = rows + len(request.ids), max(longest, request.positions)
        if count and rows * longest > max_tokens:
            break
        count += 1
    return count


class _Batch:
    """The rows of several requests as tensors. All subjects end at position `end`; `owner[row]` is a row's request.

    The loss reads at (`read_rows`, `read_positions` after `end`) the tokens `targets` of the requests `read_owner`.
    """

    def __init__(self, decoder: Decoder, requests: Sequence[_RequestRows]) -> None:
        self.requests = requests
        rows = [row for request in requests for row in request.ids]
        ends = [end for request in requests for end in request.ends]
        self.ids, self.mask = pad_aligned(rows, ends, decoder.device)
        self.end = max(ends)
        owner: list[int] = []
        essence, reads = [], []
        for number, request in enumerate(requests):
            for row, end in enumerate(request.ends[:-1]):
                first = len(request.ids[row]) - len(request.target) - end
                reads += [(len(owner), first + k, token, number) for k, token in enumerate(request.target)]
                owner.append(number)
            essence.append(len(owner))
            owner.append(number)
        device = decoder.device
        self.owner = torch.tensor(owner, device=device)
        self.essence = torch.tensor(essence, device=device)
        self.read_rows, self.read_positions, self.targets, self.read_owner = (
            torch.tensor(column, device=device) for column in zip(*reads, strict=True)
        )
        self.prompt_rows = [
            torch.tensor(
                [row for row, of in enumerate(owner) if of == number and row != essence[number]],
                device=device,
            )
            for number in range(len(requests))
        ]


class _Search:
    """The optimization of one batch."""

    def __init__(
        self, decoder: Decoder, batch: _Batch, layer: int, hparams: ValueSearchHparams, place: Place
    ) -> None:
        self._decoder, self._batch, self._layer, self._hparams = decoder, batch, layer, hparams
        self._place = place
        keys: dict[int, Tensor] = {}

        def on_key(at_layer: int, key: Tensor) -> None:
            if at_layer == layer:
                keys[layer] = key[:, batch.end].float()

        run = decoder.run(batch.ids, batch.mask, capture=("matrix",), on_key=on_key)
        self._keys, self._outputs = keys[layer], self._read_outputs(run)
        run.captured.clear()
        self._resumption: Resumption = decoder.resume(run, batch.end)
        self._initial = self._outputs[torch.stack([rows[0] for rows in batch.prompt_rows])]
        self._delta = torch.zeros_like(self._initial, requires_grad=True)
        self._essence_before: Tensor | None = None

    def _read_outputs(self, run: Run) -> Tensor:
        """The output at the searched place in each row, `[rows, width]`."""
        at_matrix = self._place == "matrix"
        states = run.captured["matrix"][self._layer] if at_matrix else run.states[self._layer + 1]
        return states[:, self._batch.end].float()

    def run(self, on_step: Callable[[float, float], None]) -> list[Value]:
        """Search until each request's loss is small enough or all steps are used."""
        count, hparams = len(self._batch.requests), self._hparams
        optimizer = torch.optim.Adam([self._delta], lr=hparams.v_lr)
        bounds = hparams.clamp_norm_factor * self._initial.norm(dim=-1, keepdim=True)
        losses: list[list[dict[str, float]]] = [[] for _ in range(count)]
        active = torch.ones(count, dtype=torch.bool, device=self._decoder.device)
        for step in range(hparams.steps):
            optimizer.zero_grad()
            loss, parts = self._loss(active)
            for number, values in parts.items():
                losses[number].append(values)
            on_step((step + 1) / hparams.steps, sum(p["loss"] for p in parts.values()) / len(parts))
            before = self._delta.detach().clone()
            stopping = [number for number, values in parts.items() if values["loss"] < _TARGET_LOSS]
            active[stopping] = False
            # The last step only evaluates the loss, as published.
            if not active.any() or step == hparams.steps - 1:
                break
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                # Adam's momentum would move the vector of a request that has stopped.
                self._delta[~active] = before[~active]
                norms = self._delta.norm(dim=-1, keepdim=True)
                self._delta.mul_(torch.where(norms > bounds, bounds / norms, 1.0))
        return [self._value(number, losses[number]) for number in range(count)]

    def _value(self, number: int, losses: list[dict[str, float]]) -> Value:
        rows = self._batch.prompt_rows[number]
        return Value(self._keys[rows], self._outputs[rows], self._delta[number].detach(), losses)

    def _loss(self, active: Tensor) -> tuple[Tensor, dict[int, dict[str, float]]]:
        """The sum of the active requests' losses, and the terms of each loss by the request's number."""
        batch, hparams = self._batch, self._hparams
        numbers = active.nonzero()[:, 0].tolist()
        reading = active[batch.read_owner]
        target_logs, essence = self._predict(active, reading)
        if self._essence_before is None:
            self._essence_before = essence.detach()
        owners = batch.read_owner[reading]
        sums = torch.zeros(len(batch.requests), device=target_logs.device).index_add(0, owners, target_logs)
        total: Tensor = torch.zeros((), device=target_logs.device)
        parts = {}
        for row, number in enumerate(numbers):
            request = batch.requests[number]
            nll = -sums[number] / len(request.target) / request.prompts
            # KL(now || before), as in the paper and in the published code.
            now, before = essence[row], self._essence_before[number]
            kl = hparams.kl_factor * (now.exp() * (now - before)).sum()
            decay = hparams.v_weight_decay * self._delta[number].norm() / self._initial[number].norm() ** 2
            loss = nll + kl + decay
            total = total + loss
            parts[number] = {"loss": loss.item(), "nll": nll.item(), "kl": kl.item(), "decay": decay.item()}
        return total, parts

    def _predict(self, active: Tensor, reading: Tensor) -> tuple[Tensor, Tensor]:
        """With the vectors added: log p of each target token `[reads]`, log distributions of the essence rows."""
        decoder, batch, resumption = self._decoder, self._batch, self._resumption
        rows = active[batch.owner].nonzero()[:, 0]
        delta = self._delta[batch.owner[rows]]

        def add(output: Tensor) -> Tensor:
            moved = (output[:, 0].float() + delta).to(output.dtype)
            return torch.cat([moved[:, None], output[:, 1:]], dim=1)

        if self._place == "matrix":
            hidden = resumption.states_entering(self._layer, rows)
            hidden = resumption.step(self._layer, hidden, rows, {"matrix": add})
        else:
            hidden = add(resumption.states_entering(self._layer + 1, rows))
        for block in range(self._layer + 1, decoder.layers):
            hidden = resumption.step(block, hidden, rows)
        # The index of each row among the active ones.
        index = torch.zeros(len(batch.owner), dtype=torch.long, device=rows.device)
        index[rows] = torch.arange(len(rows), device=rows.device)
        target = hidden[index[batch.read_rows[reading]], batch.read_positions[reading]]
        essence = hidden[index[batch.essence[active]], 0]
        logs = decoder.logits(torch.cat([target, essence])[:, None])[:, 0].float().log_softmax(-1)
        target_logs = logs[: len(target)].gather(1, batch.targets[reading][:, None])[:, 0]
        return target_logs, logs[len(target) :]
