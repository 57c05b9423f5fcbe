"""The search for v*: what must stand at the subject's last token for the model to say the target.

A vector d is added there, to the edited matrix's output (ROME) or to the block's (MEMIT), in the bare prompt and in
every context, and moved by Adam until the target is likely and the model's idea of the subject ("{subject} is a")
stays what it was (Meng et al. 2022, section 3.1 and appendix E.5; 2023, section 4.3). All requests are searched in one
batch, each with a vector of its own and stopping on its own. Rows are padded so that their subjects end at one
position; only blocks from the edited one on and positions from there on are run, and logits are read only where the
loss reads them.
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
from .checkpoint_protocol import Kept, nothing_kept
from .hparams import Hparams
from .request import ESSENCE, Request, locate_subject_in

# Where the vector is added: to what the matrix puts out, or to what the block does.
Place = Literal["matrix", "block"]

_LOSS_ENOUGH = 0.05


@dataclass(frozen=True)
class Value:
    """What was found for one request, float32.

    `keys` `[contexts, key_width]` enter the layer's matrix (the bare prompt's first), `outputs` `[contexts, width]` is
    what stood at the place of the search; v* is `initial + delta`.
    """

    keys: Tensor
    outputs: Tensor
    delta: Tensor
    losses: list[dict[str, float]]

    @property
    def initial(self) -> Tensor:
        """What stood there for the bare prompt, `[width]`."""
        return self.outputs[0]

    def figures(self) -> dict[str, Any]:
        """What the search looked like, as plain numbers."""
        return {
            "losses": self.losses,
            "delta_norm": self.delta.norm().item(),
            "initial_norm": self.initial.norm().item(),
        }


def check(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, request: Request, layer: int, hparams: Hparams
) -> None:
    """Refuse at once what the search would refuse after a second moment was collected for it.

    Raises:
        InputError: a layer that is not there, or a target that tokenizes to nothing.
    """
    if not 0 <= layer < decoder.layers:
        raise InputError(f"there is no layer {layer}; this model has layers 0 to {decoder.layers - 1}")
    if hparams.v_loss_layer not in (None, decoder.layers - 1):
        raise InputError(
            f"v_loss_layer is {hparams.v_loss_layer}, but the loss is read after the last layer, {decoder.layers - 1}"
        )
    encode_target(tokenizer, request.target_new)


# Called after each step of a batch with the requests done before it, the share of the batch's steps and the mean loss.
OnStep = Callable[[int, float, float], None]


def find_values(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Request],
    layer: int,
    hparams: Hparams,
    contexts: Sequence[str],
    on_step: OnStep,
    place: Place = "matrix",
    kept: Kept = nothing_kept,
) -> list[Value]:
    """Search v* for requests at one layer. `on_step` follows it and may raise; what is `kept` is not searched again.

    Raises:
        InputError: a layer that is not there, or a target that tokenizes to nothing.
    """
    rows = [_request_rows(decoder, tokenizer, request, layer, hparams, contexts) for request in requests]
    # What follows a subject is run in every step, padded to the batch's longest: like lengths go together.
    order = sorted(range(len(rows)), key=lambda number: rows[number].following)
    values: dict[int, Value] = {}
    while len(values) < len(requests):
        begin = len(values)
        numbers = order[begin:]
        found = kept.find(begin)
        if not found:
            count = _fitting([rows[number] for number in numbers], search_tokens(decoder.device.type))

            def step(share: float, loss: float, begin: int = begin, count: int = count) -> None:
                on_step(begin, share * count, loss)

            batch = _Batch(decoder, [rows[number] for number in numbers[:count]])
            found = _Search(decoder, batch, layer, hparams, place).run(step)
            kept.keep(begin, found)
        values |= zip(numbers, found, strict=False)
    return [values[number] for number in range(len(requests))]


@dataclass(frozen=True)
class _RequestRows:
    """One request's rows: the prompt in each context with all but the last target token, then the essence row."""

    ids: list[list[int]]
    at: list[int]
    target: list[int]

    @property
    def prompts(self) -> int:
        return len(self.ids) - 1

    @property
    def following(self) -> int:
        """Positions that each step runs, from the subject's last token on."""
        return max(len(row) - end for row, end in zip(self.ids, self.at, strict=True))


def _request_rows(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    layer: int,
    hparams: Hparams,
    contexts: Sequence[str],
) -> _RequestRows:
    check(decoder, tokenizer, request, layer, hparams)
    target = encode_target(tokenizer, request.target_new)
    prompts = [request.located(tokenizer, context) for context in contexts]
    essence = locate_subject_in(tokenizer, ESSENCE, request.subject)
    # The last target token is only predicted, never read.
    ids = [*(prompt.ids + target[:-1] for prompt in prompts), essence.ids]
    return _RequestRows(ids, [one.last for one in (*prompts, essence)], target)


def _fitting(rows: Sequence[_RequestRows], most: int) -> int:
    """How many of the next requests make one batch of `most` tokens, padded to the longest; one at least."""
    lines = count = longest = 0
    for request in rows:
        lines, longest = lines + len(request.ids), max(longest, request.following)
        if count and lines * longest > most:
            break
        count += 1
    return count


class _Batch:
    """Requests' rows as tensors. All subjects end at position `at`; `owner[row]` is the request of a row.

    The loss reads at (`read_rows`, `read_positions` right of `at`) the tokens `wanted`, of the requests `read_owner`.
    """

    def __init__(self, decoder: Decoder, requests: Sequence[_RequestRows]) -> None:
        self.requests = requests
        rows = [row for request in requests for row in request.ids]
        ends = [end for request in requests for end in request.at]
        self.ids, self.mask = pad_aligned(rows, ends, decoder.device)
        self.at = max(ends)
        owner: list[int] = []
        essence, reads = [], []
        for number, request in enumerate(requests):
            for row, end in enumerate(request.at[:-1]):
                first = len(request.ids[row]) - len(request.target) - end
                reads += [(len(owner), first + k, token, number) for k, token in enumerate(request.target)]
                owner.append(number)
            essence.append(len(owner))
            owner.append(number)
        device = decoder.device
        self.owner = torch.tensor(owner, device=device)
        self.essence = torch.tensor(essence, device=device)
        self.read_rows, self.read_positions, self.wanted, self.read_owner = (
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

    def __init__(self, decoder: Decoder, batch: _Batch, layer: int, hparams: Hparams, place: Place) -> None:
        self.decoder, self.batch, self.layer, self.hparams, self.place = decoder, batch, layer, hparams, place
        found: dict[int, Tensor] = {}

        def on_key(at_layer: int, entering: Tensor) -> None:
            if at_layer == layer:
                found[layer] = entering[:, batch.at].float()

        run = decoder.run(batch.ids, batch.mask, capture=("matrix",), on_key=on_key)
        self._keys, self._outputs = found[layer], self._standing(run)
        run.captured.clear()
        self._resumption: Resumption = decoder.resume(run, batch.at)
        self._initial = self._outputs[torch.stack([rows[0] for rows in batch.prompt_rows])]
        self._delta = torch.zeros_like(self._initial, requires_grad=True)
        self._essence_before: Tensor | None = None

    def _standing(self, run: Run) -> Tensor:
        """What stands at the place of the search in each row, `[rows, width]`."""
        states = run.captured["matrix"][self.layer] if self.place == "matrix" else run.states[self.layer + 1]
        return states[:, self.batch.at].float()

    def run(self, on_step: Callable[[float, float], None]) -> list[Value]:
        """Search until each request's loss is small enough or the steps are used up."""
        count, hparams = len(self.batch.requests), self.hparams
        optimizer = torch.optim.Adam([self._delta], lr=hparams.v_lr)
        bounds = hparams.clamp_norm_factor * self._initial.norm(dim=-1, keepdim=True)
        losses: list[list[dict[str, float]]] = [[] for _ in range(count)]
        active = torch.ones(count, dtype=torch.bool, device=self.decoder.device)
        for step in range(hparams.v_num_grad_steps):
            optimizer.zero_grad()
            loss, parts = self._loss(active)
            for number, values in parts.items():
                losses[number].append(values)
            on_step(
                (step + 1) / hparams.v_num_grad_steps, sum(p["loss"] for p in parts.values()) / len(parts)
            )
            before = self._delta.detach().clone()
            stopping = [number for number, values in parts.items() if values["loss"] < _LOSS_ENOUGH]
            active[stopping] = False
            # The last step only looks, as published.
            if not active.any() or step == hparams.v_num_grad_steps - 1:
                break
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                # Adam would carry a request that has stopped on with the momentum that it had.
                self._delta[~active] = before[~active]
                norms = self._delta.norm(dim=-1, keepdim=True)
                self._delta.mul_(torch.where(norms > bounds, bounds / norms, 1.0))
        return [self._value(number, losses[number]) for number in range(count)]

    def _value(self, number: int, losses: list[dict[str, float]]) -> Value:
        rows = self.batch.prompt_rows[number]
        return Value(self._keys[rows], self._outputs[rows], self._delta[number].detach(), losses)

    def _loss(self, active: Tensor) -> tuple[Tensor, dict[int, dict[str, float]]]:
        """The sum of the active requests' losses, and each one's parts by its number."""
        batch, hparams = self.batch, self.hparams
        numbers = active.nonzero()[:, 0].tolist()
        reading = active[batch.read_owner]
        wanted, essence = self._predict(active, reading)
        if self._essence_before is None:
            self._essence_before = essence.detach()
        owners = batch.read_owner[reading]
        sums = torch.zeros(len(batch.requests), device=wanted.device).index_add(0, owners, wanted)
        total: Tensor = torch.zeros((), device=wanted.device)
        parts = {}
        for place, number in enumerate(numbers):
            request = batch.requests[number]
            nll = -sums[number] / len(request.target) / request.prompts
            # KL(now || before), as the paper and the published code have it.
            now, was = essence[place], self._essence_before[number]
            kl = hparams.kl_factor * (now.exp() * (now - was)).sum()
            decay = hparams.v_weight_decay * self._delta[number].norm() / self._initial[number].norm() ** 2
            loss = nll + kl + decay
            total = total + loss
            parts[number] = {"loss": loss.item(), "nll": nll.item(), "kl": kl.item(), "decay": decay.item()}
        return total, parts

    def _predict(self, active: Tensor, reading: Tensor) -> tuple[Tensor, Tensor]:
        """With the vectors added: log p of each wanted token `[reads]` and the essence rows' log distributions."""
        decoder, batch, resumption = self.decoder, self.batch, self._resumption
        rows = active[batch.owner].nonzero()[:, 0]
        delta = self._delta[batch.owner[rows]]

        def add(output: Tensor) -> Tensor:
            changed = (output[:, 0].float() + delta).to(output.dtype)
            return torch.cat([changed[:, None], output[:, 1:]], dim=1)

        if self.place == "matrix":
            hidden = resumption.states_entering(self.layer, rows)
            hidden = resumption.step(self.layer, hidden, rows, {"matrix": add})
        else:
            hidden = add(resumption.states_entering(self.layer + 1, rows))
        for block in range(self.layer + 1, decoder.layers):
            hidden = resumption.step(block, hidden, rows)
        # Rows that take part are numbered anew.
        number = torch.zeros(len(batch.owner), dtype=torch.long, device=rows.device)
        number[rows] = torch.arange(len(rows), device=rows.device)
        target = hidden[number[batch.read_rows[reading]], batch.read_positions[reading]]
        essence = hidden[number[batch.essence[active]], 0]
        logs = decoder.logits(torch.cat([target, essence])[:, None])[:, 0].float().log_softmax(-1)
        wanted = logs[: len(target)].gather(1, batch.wanted[reading][:, None])[:, 0]
        return wanted, logs[len(target) :]
