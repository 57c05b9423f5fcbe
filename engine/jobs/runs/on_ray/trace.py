"""A trace's batches on a Ray."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedTokenizerBase

from .....store.catalog.tables import Model, Revision
from ....covariance.corpus import Corpus
from ....tracing.noise import Noise
from ....tracing.rules import NoiseRule
from ....tracing.trace import FactTrace, SkippedPrompt, TraceRequest, TraceSettings, split_into_batches
from .model import Remote
from .shards import Shard

if TYPE_CHECKING:
    from ..trace import Work

_ASKED_AT_ONCE = 512


class Away:
    """The tracer whose model is on the workers of a Ray."""

    def __init__(self, remote: Remote) -> None:
        self.model: Model = remote.model
        self.revision: Revision = remote.revision
        self.tokenizer: PreTrainedTokenizerBase = remote.tokenizer
        self._layers, self._pool = remote.anatomy.layers, remote.pool

    @property
    def protocol(self) -> dict[str, Any]:
        """The kind of device that all workers have."""
        return {"device": self._pool.device, "workers": "ray"}

    def fit(self, rule: NoiseRule, subjects: Sequence[str], texts: Corpus | None) -> Noise:
        """See engine.noise."""
        noise: Noise = self._pool.one("fit", rule, subjects, texts, about="fitting the noise")
        return noise

    def plan(
        self, asked: Sequence[TraceRequest], settings: TraceSettings, on_batch: Callable[[int], None]
    ) -> dict[int, int]:
        """See engine.trace; each worker asks some of the facts."""
        begins = range(0, len(asked), _ASKED_AT_ONCE)
        chunks = [asked[begin : begin + _ASKED_AT_ONCE] for begin in begins]
        shards = [
            Shard(number, "plan", (chunk, settings), 0, f"asking about the facts from {begins[number]} on")
            for number, chunk in enumerate(chunks)
        ]
        costs: dict[int, int] = {}
        answered: list[TraceRequest] = []

        def tell() -> None:
            on_batch(len(answered))

        for shard, found in self._pool.results(shards, tell):
            costs |= {begins[shard.number] + number: cost for number, cost in found.items()}
            answered += chunks[shard.number]
        return costs

    def trace(
        self, work: "Work", mine: Sequence[int], settings: TraceSettings, finished: set[int]
    ) -> Iterator[tuple[int, FactTrace | SkippedPrompt]]:
        """See engine.trace: the same batches, each on some worker."""
        asked = [work.questions[position] for position in mine]
        skipped, shared = split_into_batches(self.tokenizer, asked, settings, self._layers, self._pool.budget)
        yield from ((number, result) for number, result in skipped.items() if number not in finished)
        shared = [batch for batch in shared if not finished.issuperset(batch)]
        shards = [
            Shard(number, "trace", ([asked[i] for i in batch], settings), len(batch), _about(asked, batch))
            for number, batch in enumerate(shared)
        ]
        done = self._pool.results(shards, lambda: self._pool.report(work.between("tracing")))
        for shard, results in done:
            batch = shared[shard.number]
            yield from ((batch[i], result) for i, result in results if batch[i] not in finished)


def _about(asked: Sequence[TraceRequest], batch: Sequence[int]) -> str:
    first = asked[batch[0]].subject
    return first if len(batch) == 1 else f"{first} and {len(batch) - 1} more"
