"""EMMET (Gupta et al. 2024): ROME's equality constraint for a batch.

    A = C^-1 K (K^T C^-1 K + l I)^-1

C is multiplied by mom2_update_weight. l is emmet_lambda for more than one key, else 0.
"""

import torch
from torch import Tensor

from ..covariance.moments import FactoredMoment
from .hparams.memit import EmmetHparams
from .memit import MultiLayerMethod


class Emmet(MultiLayerMethod[EmmetHparams]):
    name = "emmet"

    def update_directions(
        self, moment: FactoredMoment, keys: Tensor, past_keys: Tensor, hparams: EmmetHparams
    ) -> Tensor:
        solved = moment.solve(keys) / hparams.mom2_update_weight
        inner = keys.double().T @ solved
        if inner.shape[0] > 1:
            inner = inner + hparams.emmet_lambda * torch.eye(inner.shape[0], dtype=torch.float64)
        return torch.linalg.solve(inner, solved.T).T
