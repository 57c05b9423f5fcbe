"""Many requests in batches, one after another: each batch is written on the weights that those before it left."""

from collections.abc import Iterator, Mapping, Sequence

from transformers import PreTrainedTokenizerBase

from ..decoder import Decoder
from ..delta import Delta, Materialiser, concatenate
from ..hparams import Hparams
from ..progress import Progress, Report
from .method import Method, Written
from .moments import Factored
from .request import Request
from .value import Kept, nothing_kept


def batches(method: Method, requests: Sequence[Request], batch: int | None) -> list[Sequence[Request]]:
    """The requests in parts of `batch`, or as many at once as the method can write."""
    sizes = [size for size in (batch, method.batch) if size is not None]
    size = min(sizes, default=len(requests))
    return [requests[begin : begin + size] for begin in range(0, len(requests), size)]


def write_in_batches(
    method: Method,
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    parts: Sequence[Sequence[Request]],
    moments: Mapping[int, Factored],
    hparams: Hparams,
    contexts: Sequence[str],
    report: Report,
    earlier: Sequence[Request] = (),
    done: Sequence[Delta] = (),
    kept: Kept = nothing_kept,
) -> Iterator[Written]:
    """Write the batches that follow the `done` ones, yielding each; the caller's weights come back in the end.

    `kept` are values of the batch in work: who keeps them forgets them when a batch is yielded. For a method that
    protects them, what earlier batches wrote counts as `earlier` too.
    """
    weights = Materialiser(decoder.model)
    deltas = list(done)
    total = sum(map(len, parts))
    try:
        for number in range(len(done), len(parts)):
            before = [request for part in parts[:number] for request in part]

            def within(progress: Progress, before: int = len(before)) -> None:
                report(Progress(before + progress.done, total, progress.unit, progress.activity))

            weights.set(concatenate(deltas))
            written = method.write(
                decoder,
                tokenizer,
                parts[number],
                moments,
                hparams,
                contexts,
                within,
                [*earlier, *before],
                kept,
            )
            deltas.append(written.delta)
            yield written
    finally:
        weights.set({})
