"""A model while a change of it is trained: the change in its passes, and its weights rounded if that is wanted."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from ..model.decoder import Decoder
from .hparams import Hparams


@contextmanager
def passes_in(decoder: Decoder, hparams: Hparams) -> Iterator[None]:
    """With `bf16`, the model's weights are rounded to bfloat16 while inside, and come back with their bits."""
    parameters = (
        [part for part in decoder.model.parameters() if part.is_floating_point()] if hparams.bf16 else []
    )
    own = [part.data for part in parameters]
    for part in parameters:
        part.data = part.data.bfloat16()
    try:
        yield
    finally:
        for part, data in zip(parameters, own, strict=True):
            part.data = data


# Maps what enters a matrix `[.., key_width]`, float32, to what is added to what it puts out `[.., width]`.
Added = Callable[[Tensor], Tensor]


@contextmanager
def changed(decoder: Decoder, change: Mapping[int, Added]) -> Iterator[None]:
    """While inside, the matrix of each of these layers has its change added."""

    def adding(added: Added) -> Any:
        def hook(_module: nn.Module, args: tuple, output: Tensor) -> Tensor:
            return (output.float() + added(args[0].float())).to(output.dtype)

        return hook

    handles = [
        decoder.part("matrix", layer).register_forward_hook(adding(added)) for layer, added in change.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
