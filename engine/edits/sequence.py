"""Many requests in batches, one after another: each batch is written on the weights that those before it left."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from ..delta import Delta, Materialiser, concatenate
from ..progress import Progress
from .method import Method, Task, Written
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

    What the task keeps are values of the part in work: who keeps them forgets them when a part is yielded. For a method
    that protects them, what earlier parts wrote counts as `earlier` too.
    """
    weights = Materialiser(task.decoder.model)
    deltas = list(done)
    total = sum(map(len, parts))
    try:
        for number in range(len(done), len(parts)):
            before = [request for part in parts[:number] for request in part]

            def within(progress: Progress, before: int = len(before)) -> None:
                task.report(Progress(before + progress.done, total, progress.unit, progress.activity))

            weights.set(concatenate(deltas))
            part = replace(task, requests=parts[number], report=within, earlier=[*task.earlier, *before])
            written = method.write(part)
            deltas.append(written.delta)
            yield written
    finally:
        weights.set({})
