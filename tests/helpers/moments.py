"""A random second moment, for tests that do not collect one."""

import torch
from torch import Tensor

from retcon.engine.model.decoder import Decoder


def moment_of(decoder: Decoder) -> Tensor:
    width = decoder.anatomy.key_width
    keys = torch.randn(8 * width, width, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return keys.T @ keys / len(keys)
