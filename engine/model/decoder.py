"""Resume the decoder in the middle: the one trick that tracing, editing and key reading share.

A causal decoder's state at layer l and position t depends on nothing to the right and nothing above. So a
finished `Run` keeps the states entering each block and each block's keys and values, and a `Resumption`
goes on from any layer for positions >= start only, with any number of variants of the run's rows in one batch.
It is exact, and no model's forward is written again: what each block is called with (masks, rotary tables,
alibi) is captured by letting the model itself call its blocks on the remaining positions with those blocks
stubbed out; the final norm, the head and what lies between are run the same way.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from ..errors import UnsupportedModel
from .anatomy import Anatomy, first_tensor
from .roles import Role

# Takes a module's output `[rows, positions, width]` and gives the output to go on with, of the same shape.
Edit = Callable[[Tensor], Tensor]

# Takes a layer and the keys that enter its matrix, `[rows, T, key_width]`.
OnKey = Callable[[int, Tensor], None]

# Elements of logits computed at once: 64M float32 = 256 MB.
_LOGITS_AT_ONCE = 64 * 2**20


@dataclass
class Run:
    """A finished pass over a batch of `[rows, T]` tokens, kept so that it can be resumed.

    `states[l]` `[rows, T, width]` enters block l; `states[L]` left the last. `captured[role][l]` is what the
    part `role` of block l put out, if asked for.
    """

    input_ids: Tensor
    attention_mask: Tensor | None
    states: list[Tensor] = field(default_factory=list)
    captured: dict[Role, list[Tensor]] = field(default_factory=dict)
    cache: DynamicCache | None = None

    @property
    def length(self) -> int:
        return self.input_ids.shape[1]


class _StopForward(Exception):
    """Thrown out of a forward pass when everything that was wanted from it is there."""


class _PrefixCache(DynamicCache):
    """The keys and values of positions < start of a run, handed to blocks that are called with other rows."""

    def __init__(self, cache: DynamicCache, start: int) -> None:
        super().__init__()
        self.rows: Tensor | None = None
        self._prefixes: list[tuple[Tensor, Tensor]] = []
        if start == 0:  # nothing comes before, whichever layers the run went through
            return
        for layer in cache.layers:
            if not isinstance(layer, DynamicLayer):
                raise UnsupportedModel(
                    f"a block keeps its past as {type(layer).__name__}, not as keys and values"
                )
            assert layer.keys is not None and layer.values is not None  # the run has filled them
            keys, values = layer.keys[..., :start, :], layer.values[..., :start, :]
            self._prefixes.append((keys, values))
            # The model asks these how long the past is, to make its masks and positions.
            prefix = DynamicLayer()
            prefix.lazy_initialization(keys, values)
            prefix.keys, prefix.values = keys, values
            self.layers.append(prefix)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self._prefixes:
            return key_states, value_states
        keys, values = self._prefixes[layer_idx]
        assert self.rows is not None
        rows = self.rows.to(keys.device)
        return torch.cat([keys[rows], key_states], dim=-2), torch.cat([values[rows], value_states], dim=-2)


class _RecordingCache(DynamicCache):
    """Ends a block's call as soon as its keys and values are there."""

    recorded: tuple[Tensor, Tensor] | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        self.recorded = (key_states, value_states)
        raise _StopForward


class _GivenCache(DynamicCache):
    """The keys and values of all positions before the one that a block is called with."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self._past = (keys, values)

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_args: Any, **_kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        keys, values = self._past
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)


class Decoder:
    """A model with its anatomy, as the science uses it: run, resume, read logits. Never changes the weights.

    Its blocks may lie on several devices; what goes in and comes out is on `device`, that of its embedding.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model = model.eval().requires_grad_(False)
        self.anatomy = anatomy
        self.blocks = list(model.get_submodule(anatomy.blocks).children())
        self.embedding = model.get_submodule(anatomy.embedding)
        self._accepts = set(inspect.signature(model.forward).parameters)
        self._outputs_of_block: int | None = (
            None  # length of the tuple that a block returns; None: a bare tensor
        )
        self._device = next(self.embedding.parameters()).device
        self._vocabulary = model.get_output_embeddings().weight.shape[0]

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def layers(self) -> int:
        return self.anatomy.layers

    def part(self, role: Role, layer: int) -> nn.Module:
        """The attention, MLP or edited matrix of block `layer`."""
        return self.model.get_submodule(self.anatomy.module_name(role, layer))

    def run(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        *,
        embedding_edit: Edit | None = None,
        capture: Sequence[Role] = (),
        on_key: OnKey | None = None,
        stop_after: int | None = None,
        resumable: bool = True,
    ) -> Run:
        """Run `[rows, T]` tokens through the blocks (not the head), keeping what is asked for.

        `embedding_edit` changes the embedding's output `[rows, T, d]`; `on_key(layer, keys)` is handed what enters
        each block's matrix, `[rows, T, key_width]`; `stop_after` is the last block wanted; `attention_mask`
        `[rows, T]` marks padding on either side. A run that is not resumable keeps no states. Gradients are not
        tracked.
        """
        run = Run(input_ids, attention_mask, cache=DynamicCache() if resumable else None)
        run.captured = {role: [] for role in capture}
        last = self.layers - 1 if stop_after is None else stop_after
        with torch.no_grad(), self._watching(run, last, embedding_edit, on_key):
            try:
                self._forward(input_ids, attention_mask, past_key_values=run.cache, use_cache=resumable)
            except _StopForward:
                return run
        raise RuntimeError("the model's forward pass did not go through its blocks")

    def resume(self, run: Run, start: int, stop: int | None = None) -> "Resumption":
        """Go on from a run for positions [start, stop), by default to its end."""
        return Resumption(self, run, start, run.length if stop is None else stop)

    def logits(self, hidden: Tensor) -> Tensor:
        """What the model makes of states that left the last block: `[rows, k, width]` -> `[rows, k, vocabulary]`.

        The model's own final norm, head, soft-capping and scaling are applied, since its own forward runs.
        """
        rows = max(1, _LOGITS_AT_ONCE // (hidden.shape[1] * self._vocabulary))
        return torch.cat([self._logits(part) for part in hidden.split(rows)])

    def _logits(self, hidden: Tensor) -> Tensor:
        tokens = torch.zeros(hidden.shape[:2], dtype=torch.long, device=self.device)
        with self._stubbed(lambda _layer, _args, _kwargs: hidden):
            return self.model(input_ids=tokens, use_cache=False).logits.to(self.device)

    def _forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None,
        start: int = 0,
        stop: int | None = None,
        **kwargs: Any,
    ) -> None:
        """The model's own forward over positions [start, stop); they count real tokens only, as in generation."""
        if attention_mask is not None:
            kwargs["attention_mask"] = attention_mask[:, :stop]
            if "position_ids" in self._accepts:
                kwargs["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, start:stop]
        self.model(input_ids=input_ids[:, start:stop], **kwargs)

    @contextmanager
    def _watching(
        self, run: Run, last: int, embedding_edit: Edit | None, on_key: OnKey | None
    ) -> Iterator[None]:
        shape = run.input_ids.shape

        def entering(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            run.states.append(_hidden(args, kwargs).to(self.device))

        def leaving(layer: int) -> Any:
            def hook(_module: nn.Module, _args: tuple, output: Any) -> None:
                self._outputs_of_block = len(output) if isinstance(output, tuple) else None
                if layer == last:
                    if run.cache is not None:
                        run.states.append(first_tensor(output).to(self.device))
                    raise _StopForward

            return hook

        def capturing(into: list[Tensor]) -> Any:
            # Cloned: Falcon adds the attention into the MLP's output in place.
            return lambda _module, _args, output: into.append(
                first_tensor(output).clone().to(self.device).view(*shape, -1)
            )

        def handing_on(layer: int, on_key: OnKey) -> Any:
            return lambda _module, args: on_key(layer, args[0].to(self.device).view(*shape, -1))

        handles = []
        if embedding_edit is not None:
            handles.append(
                self.embedding.register_forward_hook(lambda _m, _a, output: embedding_edit(output))
            )
        for layer in range(last + 1):
            if run.cache is not None:
                handles.append(self.blocks[layer].register_forward_pre_hook(entering, with_kwargs=True))
            handles.append(self.blocks[layer].register_forward_hook(leaving(layer)))
            for role, into in run.captured.items():
                handles.append(self.part(role, layer).register_forward_hook(capturing(into)))
            if on_key is not None:
                handles.append(
                    self.part("matrix", layer).register_forward_pre_hook(handing_on(layer, on_key))
                )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    @contextmanager
    def _stubbed(self, stub: Callable[[int, tuple, dict], Tensor]) -> Iterator[None]:
        """Let the model call `stub(layer, args, kwargs)` in place of each block; its result is the block's state."""
        kept = [block.__dict__.get("forward") for block in self.blocks]

        def forward_of(layer: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                state = stub(layer, args, kwargs)
                size = self._outputs_of_block
                return state if size is None else (state, *[None] * (size - 1))

            return forward

        for layer, block in enumerate(self.blocks):
            block.forward = forward_of(layer)
        try:
            yield
        finally:
            for block, forward in zip(self.blocks, kept, strict=True):
                if forward is None:
                    del block.forward
                else:  # another library (accelerate's device map) had put its own there
                    block.forward = forward


class Resumption:
    """A run taken up again for positions [start, stop), block by block, with any variants of its rows."""

    def __init__(self, decoder: Decoder, run: Run, start: int, stop: int) -> None:
        if run.cache is None:
            raise ValueError("this run was made with resumable=False")
        self.decoder, self.run, self.start, self.stop = decoder, run, start, stop
        self._cache = _PrefixCache(run.cache, start)
        self._calls = self._capture_calls()
        self._handed: Cache = self._cache
        self._rows: Tensor | None = None
        self._selected: dict[int, Tensor] = {}

    def states_entering(self, layer: int, rows: Tensor) -> Tensor:
        """A copy of the run's states entering block `layer` for some rows, `[len(rows), stop - start, width]`."""
        return self.run.states[layer][rows, self.start : self.stop]

    def step(
        self, layer: int, hidden: Tensor, rows: Tensor, edits: Mapping[Role, Edit] | None = None
    ) -> Tensor:
        """Block `layer` on `hidden` `[len(rows), stop - start, width]`; row i is a variant of the run's `rows[i]`.

        `edits` change what parts of the block put out on the way.
        """
        return self._call(layer, hidden, rows, edits or {}, self._cache)

    def last_step(self, last: "Resumption", layer: int, hidden: Tensor, rows: Tensor) -> Tensor:
        """Block `layer` on `hidden` where only the last position is wanted: `[len(rows), 1, width]`.

        The other positions are taken only as far as their keys and values; `last` is the same run resumed at its
        last position.
        """
        recording = _RecordingCache()
        with suppress(_StopForward):
            self._call(layer, hidden, rows, {}, recording)
        assert recording.recorded is not None  # every block has an attention
        self._cache.rows = rows
        keys, values = self._cache.update(*recording.recorded, layer)
        past = _GivenCache(keys[..., :-1, :], values[..., :-1, :])
        return last._call(layer, hidden[:, -1:], rows, {}, past)

    def _call(
        self, layer: int, hidden: Tensor, rows: Tensor, edits: Mapping[Role, Edit], cache: Cache
    ) -> Tensor:
        if rows is not self._rows:
            self._rows, self._selected = rows, {}
        self._cache.rows, self._handed = rows, cache
        args, kwargs = self._calls[layer]
        args = tuple(self._select(value) for value in args)
        kwargs = {name: self._select(value) for name, value in kwargs.items()}
        if args:
            args = (hidden, *args[1:])
        else:
            kwargs["hidden_states"] = hidden
        with self._editing(layer, hidden.shape[:2], edits):
            return first_tensor(self.decoder.blocks[layer](*args, **kwargs)).to(self.decoder.device)

    def _capture_calls(self) -> list[tuple[tuple, dict[str, Any]]]:
        calls: list[tuple[tuple, dict[str, Any]]] = []

        def stub(layer: int, args: tuple, kwargs: dict) -> Tensor:
            state = _hidden(args, kwargs)
            calls.append(((None, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": None}))
            if layer == self.decoder.layers - 1:
                raise _StopForward
            return state

        run = self.run
        with torch.no_grad(), self.decoder._stubbed(stub):
            try:
                where = (run.input_ids, run.attention_mask, self.start, self.stop)
                self.decoder._forward(*where, past_key_values=self._cache, use_cache=True)
            except _StopForward:
                return calls
        raise RuntimeError("the model's forward pass did not go through its blocks")

    def _select(self, value: Any) -> Any:
        """The wanted rows of what a block was called with for all rows of the run."""
        if isinstance(value, Cache):
            return self._handed
        if isinstance(value, tuple):
            return tuple(self._select(part) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        known = self._selected.get(id(value))
        if known is None:
            known = self._selected[id(value)] = self._select_rows(value)
        return known

    def _select_rows(self, value: Tensor) -> Tensor:
        rows = self.run.input_ids.shape[0]
        if value.shape[0] == 1:
            return value
        assert self._rows is not None
        wanted = self._rows.to(value.device)
        if value.shape[0] == rows:
            return value[wanted]
        # BLOOM's alibi puts its heads into the batch dimension: [rows * heads, 1, T].
        return value.view(rows, -1, *value.shape[1:])[wanted].flatten(0, 1)

    @contextmanager
    def _editing(self, layer: int, shape: Sequence[int], edits: Mapping[Role, Edit]) -> Iterator[None]:
        def hook_of(edit: Edit) -> Any:
            def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
                tensor = first_tensor(output)
                edited = (
                    edit(tensor.to(self.decoder.device).view(*shape, -1)).view(tensor.shape).to(tensor.device)
                )
                return (edited, *output[1:]) if isinstance(output, tuple) else edited

            return hook

        handles = [
            self.decoder.part(role, layer).register_forward_hook(hook_of(edit))
            for role, edit in edits.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _hidden(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]
