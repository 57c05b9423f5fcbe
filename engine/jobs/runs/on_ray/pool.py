"""Workers on the nodes of a Ray. Each idle worker gets the next shard.

If a worker or its node dies, its shards run again on other workers and give the same bits. A new node gets workers too.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ....model.limits import CPU_TOKENS, GPU_TOKENS
from ....progress import Progress
from ...devices import CPU
from ...worker.running import RunningJob
from .nodes import MAX_DEATHS, NodeTable
from .shards import Shard, ShardSource
from .worker import Weights, Worker

_POLL_SECONDS = 1.0
# How long the job's progress mentions the loss of a worker.
_LOSS_SECONDS = 60.0


@dataclass(eq=False)
class _Member:
    """A worker and the shards that it was given. It is ready once it has loaded the model."""

    actor: Any
    node: str
    ready: bool = False
    shards: list[Shard] = field(default_factory=list)


class Pool:
    """Workers that hold one model, on all nodes or at most `max_workers`. `unit` is the unit of the shards' sizes."""

    def __init__(self, running: RunningJob, weights: Weights, unit: str, max_workers: int | None) -> None:
        self._running, self._max_workers = running, max_workers
        self.device, self._threads = weights.device, weights.threads
        self._weights, self._workers = ray.put(weights), ray.remote(Worker)
        self._nodes = NodeTable(weights.device, weights.threads, unit)
        self._members: list[_Member] = []
        # RunningJob calls: a worker's shard, or its loading of the model (None).
        self._calls: dict[ray.ObjectRef, tuple[_Member, Shard | None]] = {}
        # Shards of lost workers, and how many workers died at each shard's number.
        self._returned: deque[Shard] = deque()
        self._deaths: Counter[int] = Counter()
        self._polled = self._lost_at = float("-inf")
        self._loss = ""
        self._status: dict[str, Any] = {}

    @property
    def budget(self) -> int:
        """Tokens of a worker's first batch."""
        return CPU_TOKENS if self.device == CPU else GPU_TOKENS

    def report(self, progress: Progress) -> None:
        """Report the job's progress with the number of workers. Raises `StopRequested` if the job is to stop."""
        self._running.report(
            replace(progress, detail=", ".join(filter(None, (progress.detail, self._summary()))))
        )

    def call(self, method: str, *arguments: object, label: str) -> Any:
        """Call one method on one worker and return its result."""
        shards = [Shard(0, method, arguments, 0, label)]
        [(_, result)] = self.results(shards, lambda: self.report(Progress(0, None, "", label)))
        return result

    def results(
        self,
        shards: Iterable[Shard],
        on_poll: Callable[[], None],
        *,
        window: int | None = None,
        max_queued: int = 1,
    ) -> Iterator[tuple[Shard, Any]]:
        """Run shards and yield each once with its result, in the order in which they finish.

        A shard starts only if its number is less than `window` above the first unfinished one. A worker has up to
        `max_queued` shards. `on_poll` is called at least once a second and may raise to stop.

        Raises:
            InputError: a worker raised it, as it may raise any error; or no node has room for a worker.
            RuntimeError: each worker that tries a shard dies, or workers die on every node.
        """
        source = ShardSource(iter(shards), window)
        while True:
            self._poll()
            for member in self._idle(max_queued):
                shard = self._returned.popleft() if self._returned else source.take()
                if shard is None:
                    break
                self._submit(member, shard)
            if source.exhausted and not source.in_progress:
                self._write_status()
                return
            for shard, result in self._collect():
                del source.in_progress[shard.number]
                yield shard, result
            on_poll()

    def _idle(self, max_queued: int) -> Iterator[_Member]:
        """Workers that can take another shard, those with the fewest first."""
        for count in range(max_queued):
            for member in self._members:
                if member.ready and len(member.shards) == count:
                    yield member

    def _submit(self, member: _Member, shard: Shard) -> None:
        node = self._nodes[member.node]
        if shard.size and node.since is None:
            node.since = time.monotonic()
        member.shards.append(shard)
        self._calls[getattr(member.actor, shard.method).remote(*shard.arguments)] = member, shard

    def _collect(self) -> Iterator[tuple[Shard, Any]]:
        """Yield finished shards. Blocks for up to a second."""
        if not self._calls:
            time.sleep(_POLL_SECONDS / 4)
            return
        finished, _ = ray.wait(list(self._calls), num_returns=1, timeout=_POLL_SECONDS)
        for ref in finished:
            member, shard = self._calls[ref]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                self._remove(member, _reason(error))
                continue
            del self._calls[ref]
            node = self._nodes[member.node]
            if shard is None:
                member.ready, node.failed_starts = True, 0
                continue
            member.shards.remove(shard)
            node.done += shard.size
            yield shard, result

    def _remove(self, member: _Member, reason: str) -> None:
        """Remove a lost worker and return its shards to the queue."""
        ray.kill(member.actor, no_restart=True)  # it may run and only be unreachable
        self._members.remove(member)
        self._calls = {ref: call for ref, call in self._calls.items() if call[0] is not member}
        node = self._nodes[member.node]
        if not member.ready:
            node.failed_starts += 1
        self._returned.extendleft(reversed(member.shards))
        labels = " and ".join(shard.label for shard in member.shards)
        self._loss = f"lost a worker on {node.host} ({reason})" + (f", repeating {labels}" if labels else "")
        self._lost_at = time.monotonic()
        print(self._loss, file=sys.stderr, flush=True)
        for shard in member.shards[:1]:  # the running one; the others were queued
            self._deaths[shard.number] += 1
            if self._deaths[shard.number] >= MAX_DEATHS:
                raise RuntimeError(f"{MAX_DEATHS} workers in succession died at {shard.label}")

    def _poll(self) -> None:
        """Once a second: update the nodes, remove workers of lost nodes, and start workers on the others."""
        if time.monotonic() - self._polled < _POLL_SECONDS:
            return
        self._polled = time.monotonic()
        self._nodes.update(ray.nodes())
        for member in [one for one in self._members if self._nodes[one.node].lost]:
            self._remove(member, "its node is gone")
        usable = self._nodes.usable(self._loss)
        workers = Counter(member.node for member in self._members)
        # One worker per node first, then the second ones: with few workers all nodes are used.
        for slot in range(max((node.slots for node in usable.values()), default=0)):
            for id, node in usable.items():
                is_full = self._max_workers is not None and len(self._members) >= self._max_workers
                if workers[id] <= slot < node.slots and not is_full:
                    self._start(id)
                    workers[id] += 1
        self._write_status()

    def _start(self, node: str) -> None:
        """Start a worker on a given node, so that the rates of nodes can be shown."""
        actor: Any = self._workers.options(
            num_cpus=self._threads if self.device == CPU else 1,
            num_gpus=0 if self.device == CPU else 1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote()
        member = _Member(actor, node)
        self._members.append(member)
        self._calls[actor.load.remote(self._weights, self.budget)] = member, None

    def _ready(self) -> Counter[str]:
        """The number of ready workers by node."""
        return Counter(member.node for member in self._members if member.ready)

    def _summary(self) -> str:
        if ready := self._ready():
            text = self._nodes.summary(ready)
        else:
            text = "workers are loading the model" if self._members else "waiting for a node"
        return f"{text}; {self._loss}" if time.monotonic() - self._lost_at < _LOSS_SECONDS else text

    def _write_status(self) -> None:
        """Write the nodes and their rates into the job's row if they changed."""
        status = self._nodes.status(self._ready())
        if status != self._status:
            self._status = status
            self._running.write_nodes(status)


def _reason(error: RayError) -> str:
    """Why a worker died: the error of its process if it could not start, else the name of Ray's error."""
    lines = str(error).rstrip().splitlines()
    failed_to_start = "creation task" in lines[0] if lines else True
    return lines[-1].strip() if failed_to_start and lines else type(error).__name__
