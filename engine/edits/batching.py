"""Many requests in batches, one after another: each batch is written on the weights that those before it left."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..model.delta import Delta, Materializer, concatenate
from ..progress import Progress
from .method import Method, PastEdit, Task, Written
from .request import Request


def batches(method: Method, requests: Sequence[Request], batch: int | None) -> list[Sequence[Request]]:
    """The requests in parts of `batch`, or as many at once as the method can write."""
    sizes = [size for size in (batch, method.batch) if size is not None]
    size = min(sizes, default=len(requests))
    return [requests[begin : begin + size] for begin in range(0, len(requests), size)]


def write_in_batches(
    method: Method, task: Task, parts: Sequence[Sequence[Request]], done: Sequence[Delta] = ()
) -> Iterator[Written]:
    """Write the task's requests in parts, those that follow the `done` ones, yielding each; the caller's weights come
    back in the end.

    What the task keeps are values of the part in work: who keeps them forgets them when a part is yielded. What the
    parts before wrote is `past` for a part, too.
    """
    weights = Materializer(task.decoder.model)
    deltas = list(done)
    total = sum(map(len, parts))

    def held(wrote: Sequence[Request], delta: Delta) -> PastEdit:
        return PastEdit(method.name, wrote, lambda: delta)

    try:
        for number in range(len(done), len(parts)):
            before = sum(map(len, parts[:number]))

            def within(progress: Progress, before: int = before) -> None:
                task.report(Progress(before + progress.done, total, progress.unit, progress.activity))

            weights.set(concatenate(deltas))
            past = [*task.past, *map(held, parts[:number], deltas)]
            part = replace(task, requests=parts[number], report=within, past=past)
            written = method.write(part)
            deltas.append(written.delta)
            yield written
    finally:
        weights.set({})
