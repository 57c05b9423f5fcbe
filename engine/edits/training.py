"""Train a weight change on requests: the loop that the joint method, FT-L and LoRA share, and the change in the passes.

Every request is a row per template, and its prompt in each context. Its essence prompt ("{subject} is a"), the bare
contexts and, if `preserved_rows` is set, other text and the templates with unrelated subjects form the preservation
set. Only blocks from the lowest changed one on are run, and logits are computed only where the loss reads them. The
caller puts the change into the model first and passes its parameters.
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..model.decoder import Decoder
from ..progress import Progress
from .hparams.training import TrainingHparams
from .method import EditTask
from .training_batches import Microbatch, TrainingBatches, split_rows
from .training_examples import TrainingExamples

# Mean negative log-likelihood per token below which a request counts as written (as in rome's search).
_TARGET_LOSS = 0.05
# With `rows`: steps until the full learning rate, and the share of it at the last step.
_WARM_UP_STEPS, _LAST_RATE = 10, 0.05
# The least number of epochs over rehearsed rows, however short the training would be.
REHEARSAL_EPOCHS = 10
# Seconds between two checkpoints of a training.
CHECKPOINT_SECONDS = 60.0

# Maps the input of a matrix `[.., key_width]` float32 to what is added to its output `[.., width]`.
DeltaFn = Callable[[Tensor], Tensor]


@contextmanager
def with_delta(decoder: Decoder, deltas: Mapping[int, DeltaFn]) -> Iterator[None]:
    """Add a change to the matrix of each of these layers inside the context."""

    def build_hook(delta: DeltaFn) -> Any:
        def hook(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return (output.float() + delta(args[0].float())).to(output.dtype)

        return hook

    handles = [
        decoder.part("matrix", layer).register_forward_hook(build_hook(delta))
        for layer, delta in deltas.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def bfloat16_weights(decoder: Decoder, enabled: bool) -> Iterator[None]:
    """If enabled, round the model's weights to bfloat16 inside the context and restore their bits after it."""
    parameters = [part for part in decoder.model.parameters() if enabled and part.is_floating_point()]
    originals = [part.data for part in parameters]
    for part in parameters:
        part.data = part.data.bfloat16()
    try:
        yield
    finally:
        for part, data in zip(parameters, originals, strict=True):
            part.data = data


def train(
    batches: TrainingBatches,
    parameters: Sequence[Tensor],
    task: EditTask[TrainingHparams],
    project: Callable[[], None] | None = None,
) -> list[dict[str, Any]]:
    """Train the parameters with Adam until every request's loss is small enough or all steps are used.

    The loss is the mean of the requests' losses + `kl_factor` x KL + `weight_decay` x the sum of the parameters'
    squares. `project` moves the parameters back into their bounds after each step. With `rows`, a step uses only some
    of the rows, and the learning rate has a warm-up and falls with a cosine. The last step only evaluates the loss,
    so its losses are those of the final parameters. A training resumes from the task's checkpoint to the same bits.
    Returns figures per request of the task.
    """
    hparams, steps = task.hparams, count_steps(batches.examples, task.hparams)
    optimizer = torch.optim.Adam(parameters, lr=hparams.lr)
    state = _TrainingState(batches, list(parameters), optimizer, task, steps)
    draws = batches.iter_batches(hparams, task.seed)
    for _ in range(state.step):
        next(draws)
    while state.step < steps:
        is_last = state.step == steps - 1
        optimizer.zero_grad()
        for group in optimizer.param_groups:
            group["lr"] = hparams.lr * rate_factor(state.step, steps, hparams)
        losses = (
            evaluate_loss(batches)
            if is_last
            else accumulate_gradients(batches, next(draws), parameters, hparams)
        )
        if state.record(losses, complete=is_last or not hparams.rows) or is_last:
            break
        optimizer.step()
        if project is not None:
            with torch.no_grad():
                project()
        state.save()
    return [{"losses": history} for history in state.losses[: len(task.requests)]]


def count_steps(examples: TrainingExamples, hparams: TrainingHparams) -> int:
    """The largest number of steps. `epochs` counts passes over new rows; rehearsed rows have REHEARSAL_EPOCHS."""
    if not hparams.rows or not hparams.epochs:
        return hparams.num_steps
    new, rehearsed = split_rows(examples, hparams.rows)
    steps = hparams.epochs * math.ceil(len(examples.rows(new=True)) / new)
    if rehearsed:
        steps = max(steps, REHEARSAL_EPOCHS * math.ceil(len(examples.rows(new=False)) / rehearsed))
    return min(hparams.num_steps, steps)


def rate_factor(step: int, steps: int, hparams: TrainingHparams) -> float:
    """The share of the learning rate at a step: 1, or with `rows` a warm-up and a cosine."""
    if not hparams.rows:
        return 1.0
    cosine = (1 + math.cos(math.pi * step / steps)) / 2
    return min(1.0, (step + 1) / _WARM_UP_STEPS) * (_LAST_RATE + (1 - _LAST_RATE) * cosine)


class _TrainingState:
    """The step and the losses so far, saved to and restored from the task's checkpoint."""

    def __init__(
        self,
        batches: TrainingBatches,
        parameters: list[Tensor],
        optimizer: torch.optim.Adam,
        task: EditTask[TrainingHparams],
        steps: int,
    ) -> None:
        self._parameters, self._optimizer, self._task, self._steps = parameters, optimizer, task, steps
        self.step = 0
        self.losses: list[list[dict[str, float]]] = [[] for _ in range(batches.examples.requests)]
        self._saved_at = time.monotonic()
        saved = task.checkpoint.load_training()
        if saved is not None:
            self._restore(*saved)

    def record(self, losses: list[float], complete: bool) -> bool:
        """Record a step's losses per request if it used all rows. Returns whether all requests are written."""
        self.step += 1
        if complete:
            for history, loss in zip(self.losses, losses, strict=True):
                history.append({"loss": loss})
        steps, requests = self._steps, len(self._task.requests)
        detail = f"step {self.step} of {steps}, mean loss {sum(losses) / len(losses):.3f}"
        self._task.report(Progress(self.step / steps * requests, requests, "requests", "training", detail))
        return complete and max(losses) < _TARGET_LOSS

    def save(self) -> None:
        """Save a checkpoint if the last one is old enough."""
        if time.monotonic() - self._saved_at < CHECKPOINT_SECONDS:
            return
        tensors = {}
        for number, part in enumerate(self._parameters):
            state = self._optimizer.state[part]
            tensors[f"{number}.now"] = part.detach()
            tensors[f"{number}.mean"], tensors[f"{number}.square"] = state["exp_avg"], state["exp_avg_sq"]
        self._task.checkpoint.save_training(tensors, {"step": self.step, "losses": self.losses})
        self._saved_at = time.monotonic()

    def _restore(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        self.step, self.losses = metadata["step"], metadata["losses"]
        for number, part in enumerate(self._parameters):
            with torch.no_grad():
                part.copy_(tensors[f"{number}.now"])
            self._optimizer.state[part] = {
                "step": torch.tensor(float(self.step)),
                "exp_avg": tensors[f"{number}.mean"].to(part.device),
                "exp_avg_sq": tensors[f"{number}.square"].to(part.device),
            }


def evaluate_loss(batches: TrainingBatches) -> list[float]:
    """Compute the loss of each request with the current parameters."""
    with torch.no_grad():
        losses: list[float] = torch.stack([batch.losses()[0] for batch in batches.targets]).sum(0).tolist()
    return losses


def accumulate_gradients(
    batches: TrainingBatches,
    drawn: Sequence[Microbatch],
    parameters: Sequence[Tensor],
    hparams: TrainingHparams,
) -> list[float]:
    """Accumulate the gradients of the loss over the drawn micro-batches. Returns an estimate of each request's loss.

    The drawn micro-batches of a group (new, rehearsed, preserved) are scaled up to the weight of the whole group.
    """
    total = torch.zeros(batches.examples.requests, device=batches.decoder.device)
    preserved_weight = sum(batch.preserved_weight for batch in drawn)
    (hparams.weight_decay * torch.stack([part.square().sum() for part in parameters]).sum()).backward()
    new_weight, rehearsed_weight = batches.loss_weights()
    new_scales = _scale_to_group(batches.new, drawn)
    rehearsed_scales = _scale_to_group(batches.rehearsed, drawn)
    for batch in drawn:
        losses, kl = batch.losses()
        if batch in new_scales:
            weight, scale = new_weight, new_scales[batch]
        else:
            weight, scale = rehearsed_weight, rehearsed_scales.get(batch, 0.0)
        loss = weight * scale * losses.mean() + hparams.kl_factor * kl / max(preserved_weight, 1e-12)
        loss.backward()
        total += scale * losses.detach()
    estimates: list[float] = total.tolist()
    return estimates


def _scale_to_group(group: Sequence[Microbatch], drawn: Sequence[Microbatch]) -> dict[Microbatch, float]:
    """The factor of each drawn micro-batch of a group that makes them weigh as much as the whole group."""
    members = set(group).intersection(drawn)
    weight = sum(batch.weight for batch in group) / max(sum(batch.weight for batch in members), 1e-12)
    return dict.fromkeys(members, weight)
