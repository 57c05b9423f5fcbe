"""Write many requests in batches. Each batch is written on the weights that include the batches before it."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ..model.delta import Delta, Materializer, concatenate
from ..progress import Progress
from .hparams.base import Hparams
from .method import EditResult, EditTask, Method, PastEdit, Request


def split_batches(
    hparams: Hparams, requests: Sequence[Request], batch: int | None
) -> list[Sequence[Request]]:
    """Split the requests into batches of `batch`, or of as many as the method writes at once."""
    sizes = [size for size in (batch, hparams.max_requests) if size is not None]
    size = min(sizes, default=len(requests))
    return [requests[begin : begin + size] for begin in range(0, len(requests), size)]


def write_in_batches(
    method: Method[Any],
    task: EditTask[Any],
    batches: Sequence[Sequence[Request]],
    finished: Sequence[Delta] = (),
) -> Iterator[EditResult]:
    """Write the batches that follow the `finished` ones, yielding each result. The weights are restored at the end.

    Each batch has the batches before it in `past`. The task's checkpoint holds the progress of one batch, so the caller
    clears it after each yield.
    """
    weights = Materializer(task.decoder.model)
    deltas = list(finished)
    total = sum(map(len, batches))

    def past_edit(requests: Sequence[Request], delta: Delta) -> PastEdit:
        return PastEdit(method.name, requests, lambda: delta)

    try:
        for number in range(len(finished), len(batches)):
            before = sum(map(len, batches[:number]))

            def report(progress: Progress, before: int = before) -> None:
                task.report(replace(progress, done=before + progress.done, total=total))

            weights.set(concatenate(deltas))
            past = [*task.past, *map(past_edit, batches[:number], deltas)]
            result = method.write(replace(task, requests=batches[number], report=report, past=past))
            deltas.append(result.delta)
            yield result
    finally:
        weights.set({})
