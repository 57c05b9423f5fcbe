"""EMMET (Gupta et al. 2024): ROME's equality constraint for a batch.

A = C^-1 K (K^T C^-1 K + l I)^-1,   C times mom2_update_weight, l = emmet_lambda where there is more than one key
"""

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from .hparams import Hparams
from .multi_layer import Spread


class Emmet(Spread):
    name = "emmet"

    def adjust(self, moment: FactoredMoment, keys: Tensor, earlier: Tensor, hparams: Hparams) -> Tensor:
        solved = moment.solve(keys) / hparams.mom2_update_weight
        inner = keys.double().T @ solved
        if inner.shape[0] > 1:
            inner = inner + hparams.emmet_lambda * torch.eye(inner.shape[0], dtype=torch.float64)
        return torch.linalg.solve(inner, solved.T).T
