"""Prove a revision: make its weights anew and hash every tensor."""

from typing import Any

from ..specs import VerifySpec
from ..worker.running import Running
from .loaded import check_everything, load


def run(running: Running, spec: VerifySpec) -> dict[str, Any]:
    """Returns the revision, its fingerprint and how many tensors were hashed."""
    loaded = load(running, spec.model, spec.revision)
    running.say("hashing every tensor")
    found = check_everything(loaded)
    return {"verified": loaded.revision.id, "fingerprint": found, "tensors": len(loaded.model.tensors)}
