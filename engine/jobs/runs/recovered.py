"""A history that came with an export: checked against the base's own weights before any of it is believed."""

from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from transformers import PreTrainedModel

from ....store.catalog.tables import Artifact
from ....store.exchange.manifest import Manifest, Step
from ...errors import InputError
from ...model.delta import Delta, Materializer, concatenate, is_transposed, read_delta
from ...model.loading import check_safetensors, fingerprint, tensor_digest
from ..worker.running import Running


def verify_steps(
    running: Running, folder: Path, manifest: Manifest, model: PreTrainedModel, tensors: dict[str, str]
) -> list[Artifact]:
    """Make each revision of a manifest on its base, compare fingerprints, and store the deltas.

    `model` is the base, `tensors` the digests of its parameters. It is left at the last revision. The artifacts are
    returned without their rows: merge them in the transaction that adds the revisions.

    Raises:
        InputError: a delta does not fit the model, or a revision does not come to its fingerprint.
    """
    weights = Materializer(model)
    deltas = {step.id: _delta(folder / step.delta_file, model) for step in manifest.steps if step.delta_file}
    for number, step in enumerate(manifest.steps, start=1):
        running.say(f"verifying revision {step.id}")
        so_far = replace(manifest, steps=manifest.steps[:number])
        delta = concatenate(deltas[edit.id] for edit in so_far.live)
        weights.set(delta)
        touched = {name: tensor_digest(model.get_parameter(name)) for name in delta}
        _compare(step, fingerprint(tensors | touched), folder)
    files = [folder / step.delta_file for step in manifest.steps if step.delta_file]
    return [running.catalog.artifacts.put_file(file) for file in files]


def _compare(step: Step, found: str, folder: Path) -> None:
    if found != step.fingerprint:
        raise InputError(
            f"revision {step.id} of {folder} comes to the fingerprint {found[:12]} on this base, its manifest says "
            f"{step.fingerprint[:12]}: it was made on another base, or its files were changed"
        )


def _delta(path: Path, model: PreTrainedModel) -> Delta:
    """A delta from a file of a stranger, fitted against the model that it is to change."""
    check_safetensors(path)
    try:
        delta = read_delta(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} holds no delta: {error}") from error
    parameters = dict(model.named_parameters())
    for name, factors in delta.items():
        if name not in parameters:
            raise InputError(f"{path} changes {name}, which this model does not have")
        shape = tuple(parameters[name].shape)
        wanted = shape[::-1] if is_transposed(model, name) else shape
        fits = factors.a.ndim == factors.b.ndim == 2 and factors.b.shape[1] == factors.a.shape[0]
        if not fits or (factors.b.shape[0], factors.a.shape[1]) != wanted:
            raise InputError(f"{path} changes {name} by a matrix of another shape than {list(wanted)}")
        if not factors.finite:
            raise InputError(f"{path} holds numbers for {name} that are not finite")
    return delta
