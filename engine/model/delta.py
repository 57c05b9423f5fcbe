"""Deltas: low-rank changes of named matrices, and the computation of weights from them.

    weight = round(base in float32 + B A)

The factors of all deltas on a revision's path are concatenated in order and rounded once, to the model's dtype. Nothing
is subtracted from rounded weights, so a revision without an edit has the bits that it had before the edit. The sum is
computed on the CPU for any device of the model, in the same order on every machine.

    weights = Materializer(model)
    weights.set(concatenate([first, second]))  # the model has both edits
    weights.set({})  # the model has the bits of its base
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
    """dW = B A, float32 on the CPU: `b` `[out, rank]`, `a` `[rank, in]`. The weight of a Conv1D is `[in, out]`."""

    b: Tensor
    a: Tensor

    @property
    def rank(self) -> int:
        return self.a.shape[0]

    @property
    def is_finite(self) -> bool:
        return bool(self.b.isfinite().all() and self.a.isfinite().all())

    def norm(self) -> float:
        """Frobenius norm of B A, computed without B A."""
        return ((self.b.T @ self.b) * (self.a @ self.a.T)).sum().clamp_min(0).sqrt().item()


# `compact` drops singular values below this fraction of the largest: they are rounding errors.
_ROUNDING = 1e-6

# Keys are full parameter names, e.g. `model.layers.5.mlp.down_proj.weight`.
Delta = dict[str, Factors]


def concatenate(deltas: Iterable[Delta]) -> Delta:
    """The sum of deltas in order: `B = [B1 B2 ..]`, `A = [A1; A2; ..]` for each matrix."""
    by_name: dict[str, list[Factors]] = {}
    for delta in deltas:
        for name, factors in delta.items():
            by_name.setdefault(name, []).append(factors)
    return {
        name: Factors(torch.cat([f.b for f in parts], dim=1), torch.cat([f.a for f in parts], dim=0))
        for name, parts in by_name.items()
    }


def negate(delta: Delta) -> Delta:
    """The delta with the opposite sign."""
    return {name: Factors(-factors.b, factors.a) for name, factors in delta.items()}


def compact(factors: Factors) -> Factors:
    """The same change with the smallest rank, up to float32 rounding; computed in float64.

    Successive edits of the same matrix often share directions, so their concatenation has a smaller rank.
    """
    q_b, r_b = torch.linalg.qr(factors.b.double())
    q_a, r_a = torch.linalg.qr(factors.a.double().T)
    left, values, right = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    significant = values > _ROUNDING * values[:1]
    b = q_b @ left[:, significant] * values[significant]
    return Factors(b.float(), (right[significant] @ q_a.T).float())


def to_tensors(delta: Delta) -> dict[str, Tensor]:
    """The tensors of a delta's safetensors file: `NAME.A` and `NAME.B`, float32."""
    tensors = {}
    for name, factors in delta.items():
        tensors[f"{name}.A"] = factors.a.float().contiguous()
        tensors[f"{name}.B"] = factors.b.float().contiguous()
    return tensors


def read_delta(path: Path) -> Delta:
    """Read a delta from a safetensors file of `to_tensors`."""
    with safe_open(path, framework="pt") as file:
        names = [key.removesuffix(".A") for key in file.keys() if key.endswith(".A")]  # noqa: SIM118
        return {name: Factors(file.get_tensor(f"{name}.B"), file.get_tensor(f"{name}.A")) for name in names}


@dataclass(frozen=True)
class DeltaSize:
    """The size of a matrix's change, relative to its base, and the effect of rounding.

    `norm` is the Frobenius norm of B A, `relative` its ratio to the norm of the base. `effective` is the norm of
    (rounded weight - base) over `norm`; 1 means that rounding lost nothing. `unchanged` is the share of entries that
    did not change.
    """

    rank: int
    norm: float
    relative: float
    effective: float
    unchanged: float


class Materializer:
    """Sets a model's weights in place; rewrites only the matrices that change."""

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._bases: dict[str, Tensor] = {}

    def set(self, delta: Delta) -> None:
        """Set the weights to base + delta. An empty delta restores the bits of the base."""
        for name, base in self._bases.items():
            if name not in delta:
                self._model.get_parameter(name).data.copy_(base)
        for name, factors in delta.items():
            self._model.get_parameter(name).data.copy_(self._compute_weight(name, factors))

    def sizes(self, delta: Delta) -> dict[str, DeltaSize]:
        """The size of a delta per matrix, applied to the base."""
        sizes = {}
        for name, factors in delta.items():
            base, norm = self.base(name).float(), factors.norm()
            change = self._compute_weight(name, factors).float() - base
            sizes[name] = DeltaSize(
                rank=factors.rank,
                norm=norm,
                relative=norm / base.norm().item(),
                effective=change.norm().item() / norm if norm else 1.0,
                unchanged=(change == 0).float().mean().item(),
            )
        return sizes

    def base(self, name: str) -> Tensor:
        """A copy of a base matrix, on the CPU. The first call must come before the matrix changes."""
        if name not in self._bases:
            self._bases[name] = self._model.get_parameter(name).detach().cpu().clone()
        return self._bases[name]

    def _compute_weight(self, name: str, factors: Factors) -> Tensor:
        base = self.base(name)
        change = factors.b @ factors.a
        if is_transposed(self._model, name):
            change = change.T
        return (base.float() + change).to(base.dtype)


def is_transposed(model: nn.Module, name: str) -> bool:
    """Whether a parameter is the weight of a Conv1D, `[in, out]`."""
    return isinstance(model.get_submodule(name.rpartition(".")[0]), Conv1D)
