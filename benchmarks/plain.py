"""The published way of each thing that a benchmark measures, written down plainly: the whole model, one cell at a time."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from retcon.engine.anatomy import first_tensor
from retcon.engine.decoder import Decoder
from retcon.engine.noise import draw
from retcon.engine.tokens import Located
from retcon.engine.trace import Kind, TraceSettings, window_of
from torch import Tensor, nn


@torch.no_grad()
def trace(
    decoder: Decoder, located: Located, kind: Kind, settings: TraceSettings
) -> tuple[float, float, list[list[float]]]:
    """High, low and the restored scores `[tokens][layers]` of one fact: a full forward pass of 1 + samples rows per cell."""
    model, layers = decoder.model, decoder.layers
    ids = torch.tensor([located.ids] * (1 + settings.samples), device=decoder.device)
    with _corrupted(decoder, located, settings):
        logits = model(ids).logits[:, -1].float().softmax(-1)
        answer = int(logits[0].argmax())
        high, low = logits[0, answer].item(), logits[1:, answer].mean().item()
        scores = []
        for token in range(len(located.ids)):
            row = []
            for layer in range(layers):
                window = (layer, layer + 1) if kind == "hidden" else window_of(layer, settings.window, layers)
                with _restored(decoder, kind, range(*window), token):
                    probabilities = model(ids).logits[1:, -1].float().softmax(-1)
                row.append(probabilities[:, answer].mean().item())
            scores.append(row)
    return high, low, scores


@contextmanager
def _corrupted(decoder: Decoder, located: Located, settings: TraceSettings) -> Iterator[None]:
    """Noise on the subject's embeddings in every row but the first."""
    begin, end = located.begin, located.end

    def hook(_module: nn.Module, _args: tuple, output: Tensor) -> Tensor:
        noise = draw(settings.samples, end - begin, output.shape[-1], settings.noise, settings.seed)
        output = output.clone()
        output[1:, begin:end] += noise.to(output)
        return output

    handle = decoder.embedding.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _restored(decoder: Decoder, kind: Kind, layers: range, token: int) -> Iterator[None]:
    """The first row's state at one token, put into every row."""

    def hook(_module: nn.Module, _args: tuple, output: object) -> object:
        tensor = first_tensor(output)
        tensor[1:, token] = tensor[0, token]
        return output

    modules = [decoder.blocks[layer] if kind == "hidden" else decoder.part(kind, layer) for layer in layers]
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
