"""The progress of an edit with many requests, in files that the job's checkpoint names.

They hold the finished batches with their deltas, and the values or the training of the current batch. After the job,
nothing refers to these files, and garbage collection removes them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ....store.atomic_files import write_atomically
from ....store.catalog.tables import Artifact
from ...edits.method import Checkpoint, EditResult, Value
from ...model.delta import read_delta, to_tensors
from ..devices import split_devices
from ..worker.running import RunningJob


def invalidate_if_changed(running: RunningJob, settings: Any) -> None:
    """Discard the progress if it belongs to other settings or facts, which may change while the job is paused."""
    # Shorter than an artifact's digest, since a checkpoint's strings of that length count as references to artifacts.
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:32]
    checkpoint = running.job.checkpoint
    if checkpoint.get("settings_digest") == digest:
        return
    running.training_checkpoint.unlink(missing_ok=True)
    with running.catalog.write() as session:
        running.checkpoint(session, checkpoint | {"settings_digest": digest, "batches": [], "values": {}})


@dataclass(frozen=True)
class FinishedBatches:
    """The finished batches of a job."""

    running: RunningJob

    def load(self) -> list[EditResult]:
        """The results of the finished batches, in order."""
        return [self._load(digest) for digest in self.running.job.checkpoint.get("batches", [])]

    def save(self, result: EditResult) -> None:
        """Save the result of a batch and forget the values of its search."""
        artifact = _store(self.running, to_tensors(result.delta), result.figures)
        checkpoint = self.running.job.checkpoint
        batches = [*checkpoint.get("batches", []), artifact.sha256]
        with self.running.catalog.write() as session:
            session.merge(artifact)
            self.running.checkpoint(session, checkpoint | {"batches": batches, "values": {}})

    def _load(self, digest: str) -> EditResult:
        path = self.running.catalog.artifacts.path(digest)
        with safe_open(path, framework="pt") as file:
            figures = json.loads(file.metadata()["about"])
        return EditResult(read_delta(path), figures)


@dataclass(frozen=True)
class BatchCheckpoint(Checkpoint):
    """The progress of the current batch (see engine.edits.method.Checkpoint)."""

    running: RunningJob

    def load_values(self, number: int) -> list[Value]:
        digest = self.running.job.checkpoint.get("values", {}).get(str(number))
        if digest is None:
            return []
        path = self.running.catalog.artifacts.path(digest)
        with safe_open(path, framework="pt", device=self._device) as file:
            return [
                Value(
                    file.get_tensor(f"{i}.keys"),
                    file.get_tensor(f"{i}.outputs"),
                    file.get_tensor(f"{i}.delta"),
                    losses,
                )
                for i, losses in enumerate(json.loads(file.metadata()["about"]))
            ]

    def save_values(self, number: int, values: list[Value]) -> None:
        tensors = {
            f"{i}.{name}": getattr(value, name).contiguous()
            for i, value in enumerate(values)
            for name in ("keys", "outputs", "delta")
        }
        artifact = _store(self.running, tensors, [value.losses for value in values])
        checkpoint = self.running.job.checkpoint
        digests = checkpoint.get("values", {}) | {str(number): artifact.sha256}
        with self.running.catalog.write() as session:
            session.merge(artifact)
            self.running.checkpoint(session, checkpoint | {"values": digests})

    def load_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        path = self.running.training_checkpoint
        if not path.is_file():
            return None
        with safe_open(path, framework="pt", device=self._device) as file:
            metadata = json.loads(file.metadata()["about"])
            if metadata.pop("batch") != self._batch:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118

    def save_training(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        header = {"about": json.dumps(metadata | {"batch": self._batch})}
        contiguous = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(
            self.running.training_checkpoint, lambda path: save_file(contiguous, path, header), private=True
        )

    @property
    def _batch(self) -> int:
        return len(self.running.job.checkpoint.get("batches", []))

    @property
    def _device(self) -> str:
        return split_devices(self.running.job.device)[0]


def _store(running: RunningJob, tensors: dict[str, Tensor], about: Any) -> Artifact:
    metadata = {"about": json.dumps(about)}
    return running.catalog.artifacts.put_writer(lambda path: save_file(tensors, path, metadata))
