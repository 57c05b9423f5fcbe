"""A trace's batches on the workers of a Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from .....store.catalog.tables import Model, Revision
from ....covariance.corpus import Corpus
from ....tracing.noise import Noise
from ....tracing.rules import NoiseRule
from ....tracing.trace import (
    FactTrace,
    OnToken,
    SkippedPrompt,
    TraceRequest,
    TraceSettings,
    split_into_batches,
)
from .model import RemoteModel
from .shards import Shard

# Requests of one shard of `plan`.
_PLAN_SIZE = 512


class RayTracer:
    """A model to trace on the workers of a Ray, with the methods of `LocalTracer`. Calls `on_token` without traces."""

    def __init__(self, remote: RemoteModel) -> None:
        self.model: Model = remote.model
        self.revision: Revision = remote.revision
        self.tokenizer, self.report = remote.tokenizer, remote.pool.report
        self._layers, self._pool = remote.anatomy.layers, remote.pool
        # Each worker has its own budget.
        self.budget_state: dict[str, int] = {}

    @property
    def protocol(self) -> dict[str, Any]:
        return {"device": self._pool.device, "workers": "ray"}

    def fit(self, rule: NoiseRule, subjects: Sequence[str], texts: Corpus | None) -> Noise:
        noise: Noise = self._pool.call("fit", rule, subjects, texts, label="fitting the noise")
        return noise

    def plan(
        self, requests: Sequence[TraceRequest], settings: TraceSettings, on_batch: Callable[[int], None]
    ) -> dict[int, int]:
        begins = range(0, len(requests), _PLAN_SIZE)
        chunks = [requests[begin : begin + _PLAN_SIZE] for begin in begins]
        shards = [
            Shard(number, "plan", (chunk, settings), 0, f"planning facts from {begins[number]} on")
            for number, chunk in enumerate(chunks)
        ]
        costs: dict[int, int] = {}
        planned: list[TraceRequest] = []

        def report() -> None:
            on_batch(len(planned))

        for shard, found in self._pool.results(shards, report):
            costs |= {begins[shard.number] + number: cost for number, cost in found.items()}
            planned += chunks[shard.number]
        return costs

    def trace(
        self, requests: Sequence[TraceRequest], settings: TraceSettings, finished: set[int], on_token: OnToken
    ) -> Iterator[tuple[int, FactTrace | SkippedPrompt]]:
        skipped, planned = split_into_batches(
            self.tokenizer, requests, settings, self._layers, self._pool.budget
        )
        yield from ((number, result) for number, result in skipped.items() if number not in finished)
        todo = [batch for batch in planned if not finished.issuperset(batch)]
        shards = [
            Shard(
                number, "trace", ([requests[i] for i in batch], settings), len(batch), _label(requests, batch)
            )
            for number, batch in enumerate(todo)
        ]
        for shard, results in self._pool.results(shards, lambda: on_token([], [], 0.0)):
            batch = todo[shard.number]
            yield from ((batch[i], result) for i, result in results if batch[i] not in finished)


def _label(requests: Sequence[TraceRequest], batch: Sequence[int]) -> str:
    first = requests[batch[0]].subject
    return first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"
