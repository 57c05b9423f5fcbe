"""Workers on the nodes of a Ray, and shards given to whichever is idle.

A worker that dies, or whose node goes, gives its shards back: they are done again elsewhere, and give the same bits. A
node that joins gets workers of its own.
"""

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ....errors import InputError
from ....model.limits import CPU_TOKENS, GPU_TOKENS
from ....progress import Progress
from ...devices import CPU
from ...worker.running import RunningJob
from .shards import Shard, Source
from .worker import Weights, Worker

# A shard under which so many workers die, or a node on which so many die before they hold the model, is at fault.
_MOST_DEATHS = 4
_LOOK_SECONDS = 1.0
# How long the job's activity tells of a loss.
_TOLD_SECONDS = 60.0


@dataclass
class _Node:
    """A node and how many workers it has room for."""

    host: str
    slots: int
    lost: bool = False
    failed_starts: int = 0
    done: float = 0.0
    since: float | None = None

    @property
    def usable(self) -> bool:
        return not self.lost and self.failed_starts < _MOST_DEATHS


@dataclass(eq=False)
class _Member:
    """A worker, and the shards that it has been given."""

    actor: Any
    node: str
    ready: bool = False
    shards: list[Shard] = field(default_factory=list)


class Pool:
    """Workers that hold one model, on as many nodes as there are, or `most`. `unit` is what the shards' sizes count."""

    def __init__(self, running: RunningJob, weights: Weights, unit: str, most: int | None) -> None:
        self._running, self._unit, self._most = running, unit, most
        self.device, self._threads = weights.device, weights.threads
        self._weights, self._workers = ray.put(weights), ray.remote(Worker)
        self._nodes: dict[str, _Node] = {}
        self._members: list[_Member] = []
        # What is under way: a worker's shard, or its loading of the model (None).
        self._pending: dict[ray.ObjectRef, tuple[_Member, Shard | None]] = {}
        self._back: deque[Shard] = deque()
        self._deaths: Counter[int] = Counter()
        self._looked = self._lost_at = float("-inf")
        self._loss = ""
        self._shown: dict[str, Any] = {}

    @property
    def budget(self) -> int:
        """Tokens at once that a worker begins with."""
        return CPU_TOKENS if self.device == CPU else GPU_TOKENS

    def report(self, progress: Progress) -> None:
        """Report the job's progress, and how many work at it. Raises `StopRequested` if asked to stop."""
        activity = f"{progress.activity}: {self._summary()}"
        self._running.report(Progress(progress.done, progress.total, progress.unit, activity, progress.share))

    def one(self, method: str, *arguments: object, about: str) -> Any:
        """What one call on one worker returns."""
        shards = [Shard(0, method, arguments, 0, about)]
        [(_, result)] = self.results(shards, lambda: self.report(Progress(0, None, "", about)))
        return result

    def results(
        self,
        shards: Iterable[Shard],
        tell: Callable[[], None],
        *,
        ahead: int | None = None,
        queued: int = 1,
    ) -> Iterator[tuple[Shard, Any]]:
        """Do shards and yield each once, as they are done.

        None is begun that is `ahead` or more of the first that is not done; a worker has up to `queued` at a time.
        `tell` is called at least once a second and may raise to stop.

        Raises:
            InputError: a worker's call raised it, as it may raise anything; or no node has room for a worker.
            RuntimeError: a shard ends each worker that tries it, or no node keeps one.
        """
        source = Source(iter(shards), ahead)
        while True:
            self._look()
            for member in self._idle(queued):
                shard = self._back.popleft() if self._back else source.take()
                if shard is None:
                    break
                self._give(member, shard)
            if source.ended and not source.doing:
                self._show()
                return
            for shard, result in self._done():
                del source.doing[shard.number]
                yield shard, result
            tell()

    def _idle(self, queued: int) -> Iterator[_Member]:
        """Workers that can be given a shard: first those that have none."""
        for has in range(queued):
            for member in self._members:
                if member.ready and len(member.shards) == has:
                    yield member

    def _give(self, member: _Member, shard: Shard) -> None:
        node = self._nodes[member.node]
        if shard.size and node.since is None:
            node.since = time.monotonic()
        member.shards.append(shard)
        self._pending[getattr(member.actor, shard.method).remote(*shard.arguments)] = member, shard

    def _done(self) -> Iterator[tuple[Shard, Any]]:
        """What has come back; waits for something up to a second."""
        if not self._pending:
            time.sleep(_LOOK_SECONDS / 4)
            return
        found, _ = ray.wait(list(self._pending), num_returns=1, timeout=_LOOK_SECONDS)
        for ref in found:
            member, shard = self._pending[ref]
            try:
                result = ray.get(ref)
            except RayTaskError as error:
                raise error.cause from None
            except RayError as error:
                self._lose(member, _reason(error))
                continue
            del self._pending[ref]
            if shard is None:
                member.ready, self._nodes[member.node].failed_starts = True, 0
                continue
            member.shards.remove(shard)
            self._nodes[member.node].done += shard.size
            yield shard, result

    def _lose(self, member: _Member, why: str) -> None:
        """A worker is gone: what it had is given to others."""
        ray.kill(member.actor, no_restart=True)  # it may only be out of reach
        self._members.remove(member)
        self._pending = {ref: one for ref, one in self._pending.items() if one[0] is not member}
        node, again = self._nodes[member.node], " and ".join(shard.about for shard in member.shards)
        if not member.ready:
            node.failed_starts += 1
        self._back.extendleft(reversed(member.shards))
        self._loss = f"lost a worker on {node.host} ({why})" + (f", {again} is done again" if again else "")
        self._lost_at = time.monotonic()
        print(self._loss, file=sys.stderr, flush=True)
        for shard in member.shards[:1]:  # the one that it was at
            self._deaths[shard.number] += 1
            if self._deaths[shard.number] >= _MOST_DEATHS:
                raise RuntimeError(f"{_MOST_DEATHS} workers were lost, one after another, at {shard.about}")

    def _look(self) -> None:
        """Now and then: which nodes are there, and has each its workers?"""
        now = time.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for seen in ray.nodes():
            self._see(seen)
        for member in [one for one in self._members if self._nodes[one.node].lost]:
            self._lose(member, "its node is gone")
        usable = {id: node for id, node in self._nodes.items() if node.usable and node.slots}
        if not usable:
            self._nobody()
        staffed = Counter(member.node for member in self._members)
        for place in range(max((node.slots for node in usable.values()), default=0)):
            for id, node in usable.items():
                if staffed[id] <= place < node.slots and (
                    self._most is None or len(self._members) < self._most
                ):
                    self._start(id)
                    staffed[id] += 1
        self._show()

    def _see(self, seen: dict[str, Any]) -> None:
        """Take note of a node as Ray describes it."""
        id, resources = seen["NodeID"], seen["Resources"]
        if id in self._nodes:
            if not seen["Alive"] and not self._nodes[id].lost:
                self._nodes[id].lost = True
                print(f"node {self._nodes[id].host} is gone", file=sys.stderr, flush=True)
        elif seen["Alive"]:
            slots = (
                resources.get("CPU", 0) // self._threads if self.device == CPU else resources.get("GPU", 0)
            )
            self._nodes[id] = _Node(seen["NodeManagerHostname"], int(slots))

    def _nobody(self) -> None:
        """There is no node for a worker. New ones may come, unless it is those that are there that will not do."""
        there = [node for node in self._nodes.values() if not node.lost]
        if not any(node.slots for node in self._nodes.values()):
            raise InputError(
                f"no node of this Ray has {self._threads} CPUs for a worker: choose fewer with --threads"
            )
        if any(node.slots for node in there):
            raise RuntimeError(
                f"on no node of this Ray does a worker live until it has loaded the model: {self._loss}"
            )

    def _start(self, node: str) -> None:
        """Start a worker on a node: what runs where is this pool's to say, so that its rates are a node's."""
        actor: Any = self._workers.options(
            num_cpus=self._threads if self.device == CPU else 1,
            num_gpus=0 if self.device == CPU else 1,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node, soft=False),
        ).remote()
        member = _Member(actor, node)
        self._members.append(member)
        self._pending[actor.load.remote(self._weights, self.budget)] = member, None

    def _summary(self) -> str:
        ready = Counter(member.node for member in self._members if member.ready)
        if ready:
            said = f"{_counted(ready.total(), 'worker')} on {_counted(len(ready), 'node')}"
            rates = [rate for id in ready if (rate := self._rate(self._nodes[id]))]
            if len(rates) > 1:
                said += f" ({' + '.join(f'{rate:.3g}' for rate in rates)} {self._unit}/s)"
        else:
            said = "workers are loading the model" if self._members else "waiting for a node"
        return f"{said}; {self._loss}" if time.monotonic() - self._lost_at < _TOLD_SECONDS else said

    def _rate(self, node: _Node) -> float | None:
        """Units a second since it was first given something to do."""
        return None if node.since is None or node.lost else node.done / (time.monotonic() - node.since)

    def _show(self) -> None:
        """Write the nodes and their rates into the job's row."""
        ready = Counter(member.node for member in self._members if member.ready)
        shown = {
            id[:8]: {
                "host": node.host,
                "state": "gone" if node.lost else "up" if node.usable else "given up",
                "workers": ready[id],
                "done": node.done,
                "unit": self._unit,
                "rate": self._rate(node),
            }
            for id, node in self._nodes.items()
        }
        if shown != self._shown:
            self._shown = shown
            self._running.write_nodes(shown)


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _reason(error: RayError) -> str:
    """Why a worker died, in short: if it could not even be made, what Python said of that."""
    lines = str(error).rstrip().splitlines()
    made = "creation task" in lines[0] if lines else True
    return lines[-1].strip() if made and lines else type(error).__name__
