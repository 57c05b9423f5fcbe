"""Where things are in a model, found by its structure and one small forward pass, not by names.

A decoder block adds two contributions to the residual stream: attention's and the MLP's. The attention is
the child that is handed the key/value cache; the matrix that an edit rewrites is the last d-wide projection
that runs outside it. What the block adds is then *proven* on real numbers: block output - block input must
equal one output of the attention plus one output of the MLP. That finds modules that add the residual
themselves (BLOOM), norms between the MLP and the residual (Gemma-2/3, OLMo-2), and blocks without a module for
the MLP (OPT).
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import UnsupportedModel
from .roles import Role


@dataclass(frozen=True)
class Anatomy:
    """Names of a model's parts. `attention`, `mlp`, `matrix` and `mlp_norm` are relative to a block.

    `attention` and `mlp` are the modules whose output is the bare contribution (before a norm that follows
    them); `matrix` is the projection that an edit rewrites, its weight `[width, key_width]` for a Linear and
    `[key_width, width]` for a Conv1D.
    """

    architecture: str
    embedding: str
    blocks: str
    layers: int
    width: int
    key_width: int
    attention: str
    mlp: str
    matrix: str
    matrix_kind: Literal["linear", "conv1d"]
    mlp_norm: str | None
    final_norm: str | None
    head: str
    tied_head: bool
    parallel: bool
    additive: bool

    def module_name(self, role: Role, layer: int) -> str:
        """Full module name of a part of block `layer`."""
        part = {"attn": self.attention, "mlp": self.mlp, "matrix": self.matrix}[role]
        return f"{self.blocks}.{layer}.{part}"

    def weight_name(self, layer: int) -> str:
        """Full parameter name of the matrix that an edit rewrites."""
        return f"{self.module_name('matrix', layer)}.weight"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        return cls(**data)


def check_config(config: PretrainedConfig) -> None:
    """Refuse what the config alone shows to be out of reach, before any weight is downloaded.

    Raises:
        UnsupportedModel: encoder-decoder, or experts instead of one MLP per block.
    """
    name = (getattr(config, "architectures", None) or [config.model_type])[0]
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder; retcon edits decoder-only language models")
    text = config.get_text_config()
    for field in ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"):
        if (getattr(text, field, None) or 0) > 1:
            raise UnsupportedModel(
                f"{name} routes each token through experts ({field}={getattr(text, field)}): "
                "its blocks have no single MLP matrix that an edit could rewrite"
            )


@dataclass
class _Call:
    """One module call inside the probed block: output `[1, T, d]` and where in the order it happened."""

    name: str
    module: nn.Module
    output: Tensor


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a causal language model. Runs four tokens through it twice.

    Raises:
        UnsupportedModel: naming what is missing.
    """
    check_config(model.config)
    architecture = type(model).__name__
    blocks_name, blocks = _find_blocks(model)
    block = blocks[0]
    x, y, calls, attention_child, after_blocks = _probe(model, block, blocks[-1])
    width = y.shape[-1]
    if attention_child is None:
        raise UnsupportedModel(
            f"{architecture}: no part of a block is handed the key/value cache, so no attention"
        )
    if any(parameter.ndim == 3 for parameter in block.parameters()):
        raise UnsupportedModel(f"{architecture}: experts kept as 3-D parameters cannot be edited")

    inside = [call for call in calls if _within(call.name, attention_child)]
    outside = [call for call in calls if not _within(call.name, attention_child)]
    matrices = [call for call in outside if _key_width(call.module) and call.output.shape[-1] == width]
    if not matrices:
        raise UnsupportedModel(
            f"{architecture}: no projection back to the residual stream outside the attention"
        )
    matrix = matrices[-1]
    mlp_child = matrix.name.split(".")[0]
    projections = [call for call in inside if _key_width(call.module) and call.output.shape[-1] == width]

    attn_call, mlp_call = _contributions(
        y - x, _preferring(attention_child, inside, outside), _preferring(mlp_child, outside, outside)
    )
    additive = attn_call is not None and mlp_call is not None
    mlp_norm = None
    if attn_call is None or mlp_call is None:
        # Scaled residuals or norms on the sum: the bare projections are the contributions all the same.
        attention, mlp = projections[-1].name if projections else attention_child, matrix.name
    else:
        attention = attn_call.name if _within(attn_call.name, attention_child) else attention_child
        mlp = mlp_call.name
        if not _within(mlp_call.name, mlp_child):
            mlp, mlp_norm = mlp_child, mlp_call.name
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        raise UnsupportedModel(f"{architecture}: it has no token embedding or no language-model head")
    names = {id(module): name for name, module in model.named_modules()}
    return Anatomy(
        architecture=architecture,
        embedding=names[id(embedding)],
        blocks=blocks_name,
        layers=len(blocks),
        width=width,
        key_width=_key_width(matrix.module) or 0,
        attention=attention,
        mlp=mlp,
        matrix=matrix.name,
        matrix_kind="conv1d" if isinstance(matrix.module, Conv1D) else "linear",
        mlp_norm=mlp_norm,
        final_norm=next((names[id(m)] for m in after_blocks if m is not head and m is not embedding), None),
        head=names[id(head)],
        tied_head=getattr(head, "weight", None) is getattr(embedding, "weight", None),
        parallel=_is_parallel(model, block, attention, matrix.name),
        additive=additive,
    )


def _find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The ModuleList of equal children that holds most of the parameters."""
    best, best_size = None, 0
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) and len({type(child) for child in module}) == 1:
            size = sum(parameter.numel() for parameter in module.parameters())
            if size > best_size:
                best, best_size = (name, module), size
    if best is None:
        raise UnsupportedModel(f"{type(model).__name__}: it has no list of decoder blocks")
    return best


def _within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


def _key_width(module: nn.Module) -> int | None:
    """Input width of a matrix an edit could rewrite; None for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features
    if isinstance(module, Conv1D):
        return int(module.nx)
    return None


def first_tensor(output: Any) -> Tensor:
    """A module's tensor, whether it returns it bare or first in a tuple."""
    return output[0] if isinstance(output, tuple | list) else output


@torch.no_grad()
def _probe(
    model: PreTrainedModel, block: nn.Module, last_block: nn.Module
) -> tuple[Tensor, Tensor, list[_Call], str | None, list[nn.Module]]:
    """Input and output of the first block (float32), its inner calls in order, the child that was handed
    the cache, and the leaf modules that ran after the last block."""
    calls: list[_Call] = []
    after: list[nn.Module] = []
    found: dict[str, Any] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if any(isinstance(value, Cache) for value in (*args, *kwargs.values())):
                found.setdefault("attention", name)
            tensor = first_tensor(output)
            if isinstance(tensor, Tensor) and tensor.ndim in (2, 3):
                # Falcon adds into the MLP's output in place: keep what it was.
                calls.append(
                    _Call(name, module, tensor.detach().float().clone().view(1, -1, tensor.shape[-1]))
                )

        return hook

    def note_block(_module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        found["x"] = (args[0] if args else kwargs["hidden_states"]).detach().float().clone()
        found["y"] = first_tensor(output).detach().float().clone()

    def note_after(module: nn.Module, _args: tuple, _output: Any) -> None:
        if found.get("done") and not list(module.children()):
            after.append(module)

    for name, module in block.named_modules():
        if name:
            handles.append(module.register_forward_hook(note(name), with_kwargs=True))
    handles.append(block.register_forward_hook(note_block, with_kwargs=True))
    for module in model.modules():
        handles.append(module.register_forward_hook(note_after))
    handles.append(last_block.register_forward_hook(lambda *_: found.__setitem__("done", True)))
    try:
        model(probe_tokens(model), past_key_values=DynamicCache(), use_cache=True)
    finally:
        for handle in handles:
            handle.remove()
    return found["x"], found["y"], calls, found.get("attention"), after


def probe_tokens(model: PreTrainedModel) -> Tensor:
    """Four token ids `[1, 4]` of the model's vocabulary, for probing its structure."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(1, 5, device=model.device).remainder(vocabulary)[None]


def _preferring(child: str, own: list[_Call], everything: list[_Call]) -> Iterator[_Call]:
    """Candidates for a contribution: the child itself, then what is inside it, then any norm after it."""
    yield from (call for call in own if call.name == child)
    yield from (call for call in reversed(own) if call.name != child and _within(call.name, child))
    yield from (call for call in everything if not _within(call.name, child))


def _contributions(
    added: Tensor, attention: Iterator[_Call], mlp: Iterator[_Call]
) -> tuple[_Call | None, _Call | None]:
    """The two calls whose outputs add up to what the block added, `[1, T, d]`; (None, None) if no pair does."""
    tolerance = 2e-2 * added.abs().max()
    for a, m in product(list(attention), list(mlp)):
        fits = a.output.shape == added.shape == m.output.shape and a is not m
        if fits and (added - a.output - m.output).abs().max() < tolerance:
            return a, m
    return None, None


@torch.no_grad()
def _is_parallel(model: PreTrainedModel, block: nn.Module, attention: str, matrix: str) -> bool:
    """Whether the MLP is blind to its own block's attention (GPT-J, NeoX, Phi, Falcon): silence it and look."""
    keys: list[Tensor] = []
    noted = block.get_submodule(matrix).register_forward_hook(
        lambda _m, args, _o: keys.append(args[0].clone())
    )

    def silence(_module: nn.Module, _args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    try:
        model(probe_tokens(model), use_cache=False)
        silenced = block.get_submodule(attention).register_forward_hook(silence)
        try:
            model(probe_tokens(model), use_cache=False)
        finally:
            silenced.remove()
    finally:
        noted.remove()
    return torch.equal(keys[0], keys[1])
