"""The search for v*: what the edited matrix must put out at the subject's last token for the model to say the target.

A vector d is added to the matrix's output there, in the bare prompt and in every context, and moved by Adam until
the target is likely and the model's idea of the subject ("{subject} is a") stays what it was (Meng et al. 2022,
section 3.1 and appendix E.5). Rows are padded so that their subjects end at one position; only blocks from the edited
one on and positions from there on are run, and logits are read only where the loss reads them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..decoder import Decoder, Resumption
from ..errors import InputError
from ..hparams import Hparams
from ..tokens import aligned, locate_span, target_ids
from .method import Request

# The published prompt whose prediction at the subject must not drift.
_ESSENCE = "{} is a"
_LOSS_ENOUGH = 0.05


@dataclass(frozen=True)
class Value:
    """What was found, float32: `keys` `[contexts, key_width]` and what the matrix makes of them, `outputs`
    `[contexts, width]` (the bare prompt first), and `delta` `[width]`.

    v* is `initial + delta`.
    """

    keys: Tensor
    outputs: Tensor
    delta: Tensor
    losses: list[dict[str, float]]

    @property
    def initial(self) -> Tensor:
        """What the matrix puts out for the bare prompt, `[width]`."""
        return self.outputs[0]

    def figures(self) -> dict[str, Any]:
        """What the search looked like, as plain numbers."""
        return {
            "losses": self.losses,
            "delta_norm": self.delta.norm().item(),
            "initial_norm": self.initial.norm().item(),
        }


@dataclass(frozen=True)
class _Rows:
    """The batch of the search: context rows, then the essence row; all subjects end at position `at`."""

    ids: Tensor
    mask: Tensor
    at: int
    # Where the loss reads, as (row, position right of `at`), and the token wanted there: one per row and target token.
    read_rows: Tensor
    read_positions: Tensor
    wanted: Tensor
    target_length: int


def check(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, request: Request, layer: int, hparams: Hparams
) -> None:
    """Refuse at once what the search would refuse after a second moment was collected for it.

    Raises:
        InputError: a layer that is not there, or a target that tokenises to nothing.
    """
    if not 0 <= layer < decoder.layers:
        raise InputError(f"there is no layer {layer}; this model has layers 0 to {decoder.layers - 1}")
    if hparams.v_loss_layer not in (None, decoder.layers - 1):
        raise InputError(
            f"v_loss_layer is {hparams.v_loss_layer}, but the loss is read after the last layer, {decoder.layers - 1}"
        )
    target_ids(tokenizer, request.target_new)


def find_value(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    request: Request,
    layer: int,
    hparams: Hparams,
    contexts: Sequence[str],
    on_step: Callable[[int, float], None],
) -> Value:
    """Search v* for one request at one layer. `on_step(step, loss)` follows it and may raise.

    Raises:
        InputError: a layer that is not there, or a target that tokenises to nothing.
    """
    check(decoder, tokenizer, request, layer, hparams)
    rows = _rows(decoder, tokenizer, request, contexts)
    keys: dict[int, Tensor] = {}

    def on_key(at_layer: int, entering: Tensor) -> None:
        if at_layer == layer:
            keys[layer] = entering[:-1, rows.at].float()

    run = decoder.run(rows.ids, rows.mask, capture=("matrix",), on_key=on_key)
    outputs = run.captured["matrix"][layer][:-1, rows.at].float()
    initial = outputs[0]
    run.captured.clear()
    resumption = decoder.resume(run, rows.at)
    delta = torch.zeros_like(initial, requires_grad=True)
    optimiser = torch.optim.Adam([delta], lr=hparams.v_lr)
    bound = hparams.clamp_norm_factor * initial.norm()
    essence_before: Tensor | None = None
    losses: list[dict[str, float]] = []
    for step in range(hparams.v_num_grad_steps):
        optimiser.zero_grad()
        target, essence = _predict(decoder, resumption, rows, layer, delta)
        if essence_before is None:
            essence_before = essence.detach()
        nll = -target.sum() / rows.target_length / (len(rows.ids) - 1)
        # KL(now || before), as the paper and the published code have it.
        kl = hparams.kl_factor * (essence.exp() * (essence - essence_before)).sum()
        decay = hparams.v_weight_decay * delta.norm() / initial.norm() ** 2
        loss = nll + kl + decay
        losses.append({"loss": loss.item(), "nll": nll.item(), "kl": kl.item(), "decay": decay.item()})
        on_step(step + 1, loss.item())
        # The last step only looks, as published.
        if loss.item() < _LOSS_ENOUGH or step == hparams.v_num_grad_steps - 1:
            break
        loss.backward()
        optimiser.step()
        with torch.no_grad():
            if delta.norm() > bound:
                delta.mul_(bound / delta.norm())
    return Value(keys[layer], outputs, delta.detach(), losses)


def _rows(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, request: Request, contexts: Sequence[str]
) -> _Rows:
    target = target_ids(tokenizer, request.target_new)
    ids, at = [], []
    for template in (*(context.replace("{}", request.prompt) for context in contexts), _ESSENCE):
        start = template.index("{}")
        text = template.replace("{}", request.subject)
        located = locate_span(tokenizer, text, start, start + len(request.subject))
        ids.append(located.ids)
        at.append(located.last)
    prompts = len(ids) - 1
    reads = [
        (row, len(ids[row]) - 1 - at[row] + offset) for row in range(prompts) for offset in range(len(target))
    ]
    # The last target token is only predicted, never read.
    batch = [ids[row] + target[:-1] for row in range(prompts)] + [ids[-1]]
    padded, mask = aligned(batch, at, decoder.device)
    rows, positions = zip(*reads, strict=True)
    return _Rows(
        padded,
        mask,
        max(at),
        torch.tensor(rows, device=decoder.device),
        torch.tensor(positions, device=decoder.device),
        torch.tensor(target * prompts, device=decoder.device),
        len(target),
    )


def _predict(
    decoder: Decoder, resumption: Resumption, rows: _Rows, layer: int, delta: Tensor
) -> tuple[Tensor, Tensor]:
    """With `delta` added: log p of each wanted token `[reads]`, and the essence row's log distribution."""
    every = torch.arange(len(rows.ids), device=decoder.device)

    def add(output: Tensor) -> Tensor:
        changed = (output[:, :1].float() + delta).to(output.dtype)
        return torch.cat([changed, output[:, 1:]], dim=1)

    hidden = resumption.entering(layer, every)
    hidden = resumption.step(layer, hidden, every, {"matrix": add})
    for block in range(layer + 1, decoder.layers):
        hidden = resumption.step(block, hidden, every)
    read = torch.cat([hidden[rows.read_rows, rows.read_positions], hidden[-1:, 0]])
    log_probabilities = decoder.logits(read[:, None])[:, 0].float().log_softmax(-1)
    wanted = log_probabilities[:-1].gather(1, rows.wanted[:, None])[:, 0]
    return wanted, log_probabilities[-1]
