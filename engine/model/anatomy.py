"""Find the parts of a causal language model from its structure and one small forward pass, not from their names.

A decoder block adds two contributions to the residual stream: the attention's and the MLP's. The attention is the child
that receives the key/value cache. The matrix that an edit rewrites is the last projection to the model's width that
runs outside the attention. The contributions are then verified on numbers: block output - block input must equal the
output of one attention module plus the output of one MLP module. This covers modules that add the residual themselves
(BLOOM), norms between the MLP and the residual stream (Gemma 2 and 3, OLMo 2), and blocks without an MLP module (OPT).
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache, DynamicCache, PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..errors import UnsupportedModel
from .roles import Role

_EXPERT_FIELDS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True)
class Anatomy:
    """Names of a model's parts. `attention`, `mlp`, `matrix` and `mlp_norm` are relative to a block.

    `attention` and `mlp` are the modules whose output is the contribution, before a norm that follows them. `matrix` is
    the projection that an edit rewrites; its weight is `[width, key_width]` for a Linear and `[key_width, width]` for a
    Conv1D. `parallel`: the MLP does not read the attention of its block. `additive`: the block adds both contributions
    unscaled.
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


def check_config(config: PretrainedConfig) -> None:
    """Refuse a model that cannot be edited, from its config alone, before its weights are downloaded.

    Raises:
        UnsupportedModel: the model is an encoder-decoder, or has experts in place of one MLP per block.
    """
    name = (getattr(config, "architectures", None) or [config.model_type])[0]
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{name} is an encoder-decoder; retcon edits decoder-only language models")
    text = config.get_text_config()
    for name_of_field in _EXPERT_FIELDS:
        count = getattr(text, name_of_field, None) or 0
        if count > 1:
            raise UnsupportedModel(
                f"{name} routes each token through experts ({name_of_field}={count}): "
                "its blocks have no single MLP matrix that an edit can rewrite"
            )


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the parts of a causal language model. Runs four tokens through it three times.

        anatomy = find_anatomy(model)
        model.get_parameter(anatomy.weight_name(5))

    Raises:
        UnsupportedModel: the message names the missing part.
    """
    check_config(model.config)
    architecture = type(model).__name__
    blocks_name, blocks = _find_blocks(model)
    probe = _probe_block(model, blocks[0], blocks[-1])
    if probe.attention is None:
        raise UnsupportedModel(
            f"{architecture}: no part of a block receives the key/value cache, so no attention was found"
        )
    if any(parameter.ndim == 3 for parameter in blocks[0].parameters()):
        raise UnsupportedModel(f"{architecture}: experts stored as 3-D parameters cannot be edited")
    matrices = [call for call in probe.calls_outside(probe.attention) if call.projects_to(probe.width)]
    if not matrices:
        raise UnsupportedModel(f"{architecture}: no projection to the residual stream outside the attention")
    matrix = matrices[-1]
    parts = _find_contributions(probe, probe.attention, matrix)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        raise UnsupportedModel(f"{architecture}: no token embedding or no language-model head was found")
    names = {id(module): name for name, module in model.named_modules()}
    after_blocks = [
        module for module in probe.modules_after if module is not head and module is not embedding
    ]
    return Anatomy(
        architecture=architecture,
        embedding=names[id(embedding)],
        blocks=blocks_name,
        layers=len(blocks),
        width=probe.width,
        key_width=matrix.key_width or 0,
        attention=parts.attention,
        mlp=parts.mlp,
        matrix=matrix.name,
        matrix_kind="conv1d" if isinstance(matrix.module, Conv1D) else "linear",
        mlp_norm=parts.mlp_norm,
        final_norm=names[id(after_blocks[0])] if after_blocks else None,
        head=names[id(head)],
        tied_head=getattr(head, "weight", None) is getattr(embedding, "weight", None),
        parallel=_is_parallel(model, blocks[0], parts.attention, matrix.name),
        additive=parts.additive,
    )


def first_tensor(output: Any) -> Tensor:
    """The tensor that a module returns, alone or first in a tuple."""
    return output[0] if isinstance(output, tuple | list) else output


@contextmanager
def removing(hooks: Sequence[RemovableHandle]) -> Iterator[None]:
    """Remove hooks on exit."""
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _find_blocks(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """Find the blocks: of all ModuleLists whose children have one type, the list with the most parameters."""

    def size(candidate: tuple[str, nn.ModuleList]) -> int:
        return sum(parameter.numel() for parameter in candidate[1].parameters())

    candidates = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len({type(child) for child in module}) == 1
    ]
    best = max(candidates, key=size, default=None)
    if best is None or not size(best):
        raise UnsupportedModel(f"{type(model).__name__}: no list of decoder blocks was found")
    return best


def _is_within(name: str, parent: str) -> bool:
    return name == parent or name.startswith(parent + ".")


@dataclass
class _Call:
    """One call of a module inside the probed block, with its output `[1, T, d]` float32."""

    name: str
    module: nn.Module
    output: Tensor

    @property
    def key_width(self) -> int | None:
        """Input width of a projection; None for any other module."""
        if isinstance(self.module, nn.Linear):
            return self.module.in_features
        return int(self.module.nx) if isinstance(self.module, Conv1D) else None

    def projects_to(self, width: int) -> bool:
        """Whether this is a projection to the residual stream."""
        return bool(self.key_width) and self.output.shape[-1] == width


@dataclass
class _Probe:
    """A forward pass through the first block: its input and output `[1, T, width]` float32, and its calls in order.

    `attention` is the child that received the cache; `modules_after` are the leaf modules that ran after the last
    block.
    """

    input: Tensor = field(default_factory=lambda: torch.empty(0))
    output: Tensor = field(default_factory=lambda: torch.empty(0))
    calls: list[_Call] = field(default_factory=list)
    attention: str | None = None
    modules_after: list[nn.Module] = field(default_factory=list)
    passed_last_block: bool = False

    @property
    def width(self) -> int:
        return self.output.shape[-1]

    def calls_outside(self, parent: str) -> list[_Call]:
        return [call for call in self.calls if not _is_within(call.name, parent)]

    def record_call(self, name: str) -> Callable[..., None]:
        """A hook for a module inside the block."""

        def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
            if self.attention is None and any(
                isinstance(value, Cache) for value in (*args, *kwargs.values())
            ):
                self.attention = name
            tensor = first_tensor(output)
            if isinstance(tensor, Tensor) and tensor.ndim in (2, 3):
                # Cloned: Falcon adds to the MLP's output in place.
                output = tensor.detach().float().clone().view(1, -1, tensor.shape[-1])
                self.calls.append(_Call(name, module, output))

        return hook

    def record_block(self, _module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        self.input = (args[0] if args else kwargs["hidden_states"]).detach().float().clone()
        self.output = first_tensor(output).detach().float().clone()

    def record_last_block(self, *_call: Any) -> None:
        self.passed_last_block = True

    def record_after(self, module: nn.Module, _args: tuple, _output: Any) -> None:
        if self.passed_last_block and not list(module.children()):
            self.modules_after.append(module)


@torch.no_grad()
def _probe_block(model: PreTrainedModel, block: nn.Module, last_block: nn.Module) -> _Probe:
    probe = _Probe()
    handles = [
        module.register_forward_hook(probe.record_call(name), with_kwargs=True)
        for name, module in block.named_modules()
        if name
    ]
    handles.append(block.register_forward_hook(probe.record_block, with_kwargs=True))
    handles += [module.register_forward_hook(probe.record_after) for module in model.modules()]
    handles.append(last_block.register_forward_hook(probe.record_last_block))
    with removing(handles):
        model(_probe_tokens(model), past_key_values=DynamicCache(), use_cache=True)
    return probe


def _probe_tokens(model: PreTrainedModel) -> Tensor:
    """Four token ids `[1, 4]` of the model's vocabulary."""
    vocabulary = model.config.get_text_config().vocab_size
    return torch.arange(1, 5, device=model.device).remainder(vocabulary)[None]


@dataclass(frozen=True)
class _Contributions:
    """Names of the modules whose outputs a block adds to the residual stream; see `Anatomy`."""

    attention: str
    mlp: str
    mlp_norm: str | None
    additive: bool


def _find_contributions(probe: _Probe, attention: str, matrix: _Call) -> _Contributions:
    inside = [call for call in probe.calls if _is_within(call.name, attention)]
    outside = probe.calls_outside(attention)
    mlp_child = matrix.name.split(".")[0]
    pair = _find_sum(
        probe.output - probe.input,
        _candidates(attention, inside, outside),
        _candidates(mlp_child, outside, outside),
    )
    if pair is None:
        # Scaled residuals, or norms on the sum: take the projections themselves.
        projections = [call for call in inside if call.projects_to(probe.width)]
        return _Contributions(projections[-1].name if projections else attention, matrix.name, None, False)
    attention_call, mlp_call = pair
    attention = attention_call.name if _is_within(attention_call.name, attention) else attention
    if _is_within(mlp_call.name, mlp_child):
        return _Contributions(attention, mlp_call.name, None, True)
    return _Contributions(attention, mlp_child, mlp_call.name, True)


def _candidates(child: str, own: list[_Call], others: list[_Call]) -> Iterator[_Call]:
    """Candidates for a contribution, best first: the child itself, modules inside it, then norms after it."""
    yield from (call for call in own if call.name == child)
    yield from (call for call in reversed(own) if call.name != child and _is_within(call.name, child))
    yield from (call for call in others if not _is_within(call.name, child))


def _find_sum(added: Tensor, attention: Iterator[_Call], mlp: Iterator[_Call]) -> tuple[_Call, _Call] | None:
    """The first pair of calls whose outputs sum to what the block added, `[1, T, d]`; None if there is none."""
    tolerance = 2e-2 * added.abs().max()
    for a, m in product(list(attention), list(mlp)):
        same_shape = a.output.shape == added.shape == m.output.shape
        if same_shape and a is not m and (added - a.output - m.output).abs().max() < tolerance:
            return a, m
    return None


@torch.no_grad()
def _is_parallel(model: PreTrainedModel, block: nn.Module, attention: str, matrix: str) -> bool:
    """Whether the MLP ignores the attention of its block (GPT-J, NeoX, Phi, Falcon): its key is equal without it."""
    keys: list[Tensor] = []

    def zero(_module: nn.Module, _args: tuple, output: Any) -> Any:
        if isinstance(output, tuple):
            return (torch.zeros_like(output[0]), *output[1:])
        return torch.zeros_like(output)

    def record(_module: nn.Module, args: tuple, _output: Any) -> None:
        keys.append(args[0].clone())

    with removing([block.get_submodule(matrix).register_forward_hook(record)]):
        model(_probe_tokens(model), use_cache=False)
        with removing([block.get_submodule(attention).register_forward_hook(zero)]):
            model(_probe_tokens(model), use_cache=False)
    return torch.equal(keys[0], keys[1])
