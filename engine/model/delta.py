"""Deltas: low-rank changes of named matrices, and the one way in which they become weights.

    weight = round(base in float32 + B A)

with the factors of every delta on a revision's path concatenated in order and one rounding, to the model's dtype,
at the end. Nothing is ever subtracted, so leaving an edit out gives the bits that it never touched.
It is computed on the CPU whatever device the model is on: the same sum in the same order everywhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D


@dataclass(frozen=True)
class Factors:
    """dW = B A, float32 on the CPU: `b` `[out, rank]`, `a` `[rank, in]`. A Conv1D stores its weight transposed."""

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def is_finite(self) -> bool:
        """Whether all numbers are."""
        return bool(self.b.isfinite().all() and self.a.isfinite().all())

    def norm(self) -> float:
        """Frobenius norm of B A, without forming it."""
        return ((self.b.T @ self.b) * (self.a @ self.a.T)).sum().clamp_min(0).sqrt().item()


# Of a sum of changes, directions with less than this of the largest are what rounding left.
_ROUNDING = 1e-6

# By full parameter name, e.g. `model.layers.5.mlp.down_proj.weight`.
Delta = dict[str, Factors]


def concatenate(deltas: Iterable[Delta]) -> Delta:
    """All deltas as one, in order: `B = [B1 B2 ..]`, `A = [A1; A2; ..]` for each matrix."""
    together: dict[str, list[Factors]] = {}
    for delta in deltas:
        for name, factors in delta.items():
            together.setdefault(name, []).append(factors)
    return {
        name: Factors(torch.cat([f.b for f in parts], dim=1), torch.cat([f.a for f in parts], dim=0))
        for name, parts in together.items()
    }


def negate(delta: Delta) -> Delta:
    """What takes a delta off."""
    return {name: Factors(-factors.b, factors.a) for name, factors in delta.items()}


def compact(factors: Factors) -> Factors:
    """The same change in as few factors as it needs, to float32's rounding: edits that build on each other have most in
    common. Computed in float64."""
    outer, of_b = torch.linalg.qr(factors.b.double())
    inner, of_a = torch.linalg.qr(factors.a.double().T)
    left, values, right = torch.linalg.svd(of_b @ of_a.T, full_matrices=False)
    held = values > _ROUNDING * values[:1]
    return Factors((outer @ left[:, held] * values[held]).float(), (right[held] @ inner.T).float())


def to_tensors(delta: Delta) -> dict[str, Tensor]:
    """A delta as the tensors of a safetensors file: `NAME.A` and `NAME.B`."""
    tensors = {}
    for name, factors in delta.items():
        tensors[f"{name}.A"] = factors.a.float().contiguous()
        tensors[f"{name}.B"] = factors.b.float().contiguous()
    return tensors


def read_delta(path: Path) -> Delta:
    """A delta from the safetensors file that `to_tensors` describes."""
    with safe_open(path, framework="pt") as file:
        names = [key.removesuffix(".A") for key in file.keys() if key.endswith(".A")]  # noqa: SIM118
        return {name: Factors(file.get_tensor(f"{name}.B"), file.get_tensor(f"{name}.A")) for name in names}


@dataclass(frozen=True)
class DeltaSize:
    """How large a matrix's change is, beside its base, and what is left of it after rounding."""

    rank: int
    norm: float
    relative: float  # norm of B A over norm of the base
    effective: float  # norm of (rounded weight - base) over norm of B A; 1 is a loss-free write
    unchanged: float  # share of the matrix's entries that rounding left as they were


class Materializer:
    """Moves a model between revisions in place, rewriting only the matrices that change."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._bases: dict[str, Tensor] = {}

    def set(self, delta: Delta) -> None:
        """Give the model the weights `base + delta`; an empty delta gives the base's bits."""
        for name, base in self._bases.items():
            if name not in delta:
                self._model.get_parameter(name).data.copy_(base)
        for name, factors in delta.items():
            self._model.get_parameter(name).data.copy_(self._written(name, factors))

    def sizes(self, delta: Delta) -> dict[str, DeltaSize]:
        """What a delta does to each of its matrices, written onto the base."""
        sizes = {}
        for name, factors in delta.items():
            base, norm = self.base(name).float(), factors.norm()
            change = self._written(name, factors).float() - base
            sizes[name] = DeltaSize(
                rank=factors.rank,
                norm=norm,
                relative=norm / base.norm().item(),
                effective=change.norm().item() / norm if norm else 1.0,
                unchanged=(change == 0).float().mean().item(),
            )
        return sizes

    def base(self, name: str) -> Tensor:
        """A matrix as the base has it, on the CPU."""
        if name not in self._bases:
            self._bases[name] = self._model.get_parameter(name).detach().cpu().clone()
        return self._bases[name]

    def _written(self, name: str, factors: Factors) -> Tensor:
        base = self.base(name)
        change = factors.b @ factors.a
        if is_transposed(self._model, name):
            change = change.T
        return (base.float() + change).to(base.dtype)


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether a parameter is the weight of a Conv1D, `[in, out]`."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D)
