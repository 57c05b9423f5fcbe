"""MEMIT (Meng et al. 2023): least squares between the new values and everything the layer has seen.

A = (w C + K K^T)^-1 K,   w = mom2_update_weight
"""

from torch import Tensor

from ..covariance.moments import FactoredMoment
from .hparams import Hparams
from .multi_layer import Spread


class Memit(Spread):
    name = "memit"

    def adjust(self, moment: FactoredMoment, keys: Tensor, earlier: Tensor, hparams: Hparams) -> Tensor:
        return moment.solve_regularized(keys, hparams.mom2_update_weight)
