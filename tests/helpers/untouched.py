"""Check that a model has no hooks left and the same weights."""

import torch
from torch import Tensor, nn


def assert_untouched(model: nn.Module) -> None:
    """Check that no module has a hook or a replaced forward."""
    for name, module in model.named_modules():
        assert not module._forward_hooks, f"a forward hook is left on {name or 'the model'}"
        assert not module._forward_pre_hooks, f"a forward pre-hook is left on {name or 'the model'}"
        assert "forward" not in module.__dict__, f"the forward of {name or 'the model'} is still replaced"


def bits_of(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all weights."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same_bits(model: nn.Module, bits: dict[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, bits[name]), f"{name} has changed"
