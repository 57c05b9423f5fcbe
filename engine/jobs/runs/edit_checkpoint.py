"""What an edit of many requests has so far, in files that the job's checkpoint names: a resumed job goes on from there.

Finished batches with their deltas, and of the batch in work the values that were found. Once the job is done nothing
names these files any more, and a collection of the catalog frees them.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ....store.atomic_files import write_atomically
from ...edits.method import EditResult, Value
from ...model.delta import read_delta, to_tensors
from ..devices import split_devices
from ..worker.running import RunningJob


def keep_for(running: RunningJob, asked: Any) -> None:
    """Let go of what was kept for something else than `asked`: a person may change facts or settings in a pause."""
    # Not as long as an artifact's: whatever looks like one in a checkpoint is kept as one.
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:32]
    checkpoint = running.job.checkpoint
    if checkpoint.get("kept_for") == digest:
        return
    running.training_checkpoint.unlink(missing_ok=True)
    with running.catalog.write() as session:
        running.checkpoint(session, checkpoint | {"kept_for": digest, "parts": [], "values": {}})


@dataclass(frozen=True)
class KeptParts:
    """The finished batches of one job."""

    running: RunningJob

    def written(self) -> list[EditResult]:
        """The finished batches, in order."""
        return [self._read(digest) for digest in self.running.job.checkpoint.get("parts", [])]

    def keep(self, part: EditResult) -> None:
        """Note a finished batch; the values that it was made of are not needed any more."""
        digest, artifact = _store(self.running, to_tensors(part.delta), part.figures)
        checkpoint = self.running.job.checkpoint
        with self.running.catalog.write() as session:
            session.merge(artifact)
            parts = [*checkpoint.get("parts", []), digest]
            self.running.checkpoint(session, checkpoint | {"parts": parts, "values": {}})

    def _read(self, digest: str) -> EditResult:
        path = self.running.catalog.artifacts.path(digest)
        with safe_open(path, framework="pt") as file:
            figures = json.loads(file.metadata()["about"])
        return EditResult(read_delta(path), figures)


@dataclass(frozen=True)
class KeptWork:
    """What was found of the batch in work: values by the number of the first of them, or a training (edits.kept)."""

    running: RunningJob

    def load_values(self, number: int) -> list[Value]:
        digest = self.running.job.checkpoint.get("values", {}).get(str(number))
        if digest is None:
            return []
        device = split_devices(self.running.job.device)[0]
        with safe_open(self.running.catalog.artifacts.path(digest), framework="pt", device=device) as file:
            losses = json.loads(file.metadata()["about"])
            return [
                Value(
                    file.get_tensor(f"{i}.keys"),
                    file.get_tensor(f"{i}.outputs"),
                    file.get_tensor(f"{i}.delta"),
                    of_one,
                )
                for i, of_one in enumerate(losses)
            ]

    def save_values(self, number: int, values: list[Value]) -> None:
        tensors = {
            f"{i}.{part}": getattr(value, part).contiguous()
            for i, value in enumerate(values)
            for part in ("keys", "outputs", "delta")
        }
        digest, artifact = _store(self.running, tensors, [value.losses for value in values])
        checkpoint = self.running.job.checkpoint
        with self.running.catalog.write() as session:
            session.merge(artifact)
            known = checkpoint.get("values", {}) | {str(number): digest}
            self.running.checkpoint(session, checkpoint | {"values": known})

    def load_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        path = self.running.training_checkpoint
        if not path.is_file():
            return None
        with safe_open(path, framework="pt", device=split_devices(self.running.job.device)[0]) as file:
            about = json.loads(file.metadata()["about"])
            if about.pop("batch") != self._batch:
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118

    def save_training(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        header = {"about": json.dumps(metadata | {"batch": self._batch})}
        whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
        write_atomically(
            self.running.training_checkpoint, lambda path: save_file(whole, path, header), private=True
        )

    @property
    def _batch(self) -> int:
        return len(self.running.job.checkpoint.get("parts", []))


def _store(running: RunningJob, tensors: dict[str, Tensor], about: Any) -> tuple[str, Any]:
    metadata = {"about": json.dumps(about)}
    artifact = running.catalog.artifacts.put_writer(lambda path: save_file(tensors, path, metadata))
    return artifact.sha256, artifact
