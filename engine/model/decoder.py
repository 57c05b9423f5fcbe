"""Resume a decoder in the middle, for tracing, value search and reading keys.

A causal decoder's state at layer l and position t does not depend on positions to the right or on layers above. A
finished `Run` therefore stores the states entering each block and each block's keys and values. A `Resumption`
continues from any layer for positions >= start only, with any number of variants of the run's rows in one batch.

The result is exact, and no forward function is reimplemented. The arguments of each block (masks, rotary tables, ALiBi)
are captured: the model calls its own blocks on the remaining positions while those blocks are stubbed out. The final
norm, the head and the modules between are run the same way.

    decoder = Decoder(model, find_anatomy(model))
    run = decoder.run(ids, capture=["mlp"])
    rows, resumed = torch.tensor([0, 0]), decoder.resume(run, start=3)
    hidden = resumed.states_entering(5, rows)  # two copies of row 0, positions 3.., before block 5
    for layer in range(5, decoder.layers):
        hidden = resumed.step(layer, hidden, rows)
    logits = decoder.logits(hidden[:, -1:])
"""

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache, DynamicCache, PreTrainedModel

from .anatomy import Anatomy, first_tensor, removing
from .caches import FunctionCache, KeysValues, PrefixCache, append
from .roles import Role

# Maps a module's output `[rows, positions, width]` to the output that replaces it, of the same shape.
Edit = Callable[[Tensor], Tensor]

# Takes a layer and the keys that enter its matrix, `[rows, T, key_width]`.
OnKey = Callable[[int, Tensor], None]

# Elements of logits computed in one batch: 64M float32 = 256 MB.
LOGITS_BATCH = 64 * 2**20


@dataclass
class Run:
    """A finished pass over a batch of `[rows, T]` tokens, with the states that a `Resumption` needs.

    `states[l]` `[rows, T, width]` enters block l; `states[L]` leaves the last block. `captured[role][l]` is the output
    of the part `role` of block l, for the roles that were requested.
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
    """Ends a forward pass when all requested values are there."""


class Decoder:
    """A model and its anatomy (the names of its parts). Never changes the weights.

    Runs all blocks, or resumes at a given block from stored hidden states, and computes logits.

    The blocks may be on several devices. Inputs and results are on `device`, that of the embedding.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy) -> None:
        self.model = model.eval().requires_grad_(False)
        self.anatomy = anatomy
        self.blocks = list(model.get_submodule(anatomy.blocks).children())
        self.embedding = model.get_submodule(anatomy.embedding)
        self._accepts = set(inspect.signature(model.forward).parameters)
        # Length of the tuple that a block returns; None for a tensor.
        self._block_outputs: int | None = None
        self.device = next(self.embedding.parameters()).device
        self.layers = anatomy.layers
        self._vocabulary = model.get_output_embeddings().weight.shape[0]

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
        """Run `[rows, T]` tokens through the blocks, without the head. Gradients are not tracked.

        `attention_mask` `[rows, T]` marks padding on either side. `embedding_edit` changes the embedding's output
        `[rows, T, d]`. `on_key(layer, keys)` receives the input `[rows, T, key_width]` of each block's matrix.
        `stop_after` is the last block to run. A run that is not `resumable` stores no states.
        """
        run = Run(input_ids, attention_mask, cache=DynamicCache() if resumable else None)
        run.captured = {role: [] for role in capture}
        last = self.layers - 1 if stop_after is None else stop_after
        with torch.no_grad(), self._recording(run, last, embedding_edit, on_key):
            try:
                self._forward(input_ids, attention_mask, past_key_values=run.cache, use_cache=resumable)
            except _StopForward:
                return run
        raise RuntimeError("the forward pass of the model did not reach its last block")

    def resume(self, run: Run, start: int, stop: int | None = None) -> "Resumption":
        """Resume a run for the positions [start, stop); `stop` defaults to its end."""
        return Resumption(self, run, start, run.length if stop is None else stop)

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits for states that leave the last block: `[rows, k, width]` -> `[rows, k, vocabulary]`.

        The model's own forward applies its final norm, head, soft-capping and scaling.
        """
        rows = max(1, LOGITS_BATCH // (hidden.shape[1] * self._vocabulary))
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
        """The model's own forward over the positions [start, stop). Position ids skip padding, as in generation."""
        if attention_mask is not None:
            kwargs["attention_mask"] = attention_mask[:, :stop]
            if "position_ids" in self._accepts:
                kwargs["position_ids"] = (attention_mask.long().cumsum(-1) - 1).clamp_min(0)[:, start:stop]
        self.model(input_ids=input_ids[:, start:stop], **kwargs)

    @contextmanager
    def _recording(
        self, run: Run, last: int, embedding_edit: Edit | None, on_key: OnKey | None
    ) -> Iterator[None]:
        """Record states and captured outputs into `run`, and stop the forward pass after block `last`."""
        shape = run.input_ids.shape

        def record_input(_module: nn.Module, args: tuple, kwargs: dict) -> None:
            run.states.append(_hidden_states(args, kwargs).to(self.device))

        def after_block(layer: int) -> Any:
            def hook(_module: nn.Module, _args: tuple, output: Any) -> None:
                self._block_outputs = len(output) if isinstance(output, tuple) else None
                if layer == last:
                    if run.cache is not None:
                        run.states.append(first_tensor(output).to(self.device))
                    raise _StopForward

            return hook

        def record_output(outputs: list[Tensor]) -> Any:
            # Cloned: Falcon adds the attention to the MLP's output in place.
            return lambda _module, _args, output: outputs.append(
                first_tensor(output).clone().to(self.device).view(*shape, -1)
            )

        def pass_key(layer: int, on_key: OnKey) -> Any:
            return lambda _module, args: on_key(layer, args[0].to(self.device).view(*shape, -1))

        handles = []
        if embedding_edit is not None:
            handles.append(
                self.embedding.register_forward_hook(lambda _m, _a, output: embedding_edit(output))
            )
        for layer in range(last + 1):
            if run.cache is not None:
                handles.append(self.blocks[layer].register_forward_pre_hook(record_input, with_kwargs=True))
            handles.append(self.blocks[layer].register_forward_hook(after_block(layer)))
            for role, outputs in run.captured.items():
                handles.append(self.part(role, layer).register_forward_hook(record_output(outputs)))
            if on_key is not None:
                matrix = self.part("matrix", layer)
                handles.append(matrix.register_forward_pre_hook(pass_key(layer, on_key)))
        with removing(handles):
            yield

    @contextmanager
    def _stubbed(self, stub: Callable[[int, tuple, dict], Tensor]) -> Iterator[None]:
        """Replace each block by `stub(layer, args, kwargs)`, which returns the block's output state."""
        originals = [block.__dict__.get("forward") for block in self.blocks]

        def forward_of(layer: int) -> Callable[..., Any]:
            def forward(*args: Any, **kwargs: Any) -> Any:
                state = stub(layer, args, kwargs)
                size = self._block_outputs
                return state if size is None else (state, *[None] * (size - 1))

            return forward

        for layer, block in enumerate(self.blocks):
            block.forward = forward_of(layer)
        try:
            yield
        finally:
            for block, forward in zip(self.blocks, originals, strict=True):
                if forward is None:
                    del block.forward
                else:  # set by another library (accelerate's device map)
                    block.forward = forward


class Resumption:
    """A run resumed for the positions [start, stop), block by block, with any variants of its rows."""

    def __init__(self, decoder: Decoder, run: Run, start: int, stop: int) -> None:
        if run.cache is None:
            raise ValueError("this run was made with resumable=False")
        self.decoder, self.run, self.start, self.stop = decoder, run, start, stop
        self._cache = PrefixCache(run.cache, start)
        self._calls = self._capture_calls()
        self._block_cache: Cache = self._cache
        self._rows: Tensor | None = None
        self._selected: dict[int, Tensor] = {}

    def states_entering(self, layer: int, rows: Tensor) -> Tensor:
        """A copy of the run's states entering block `layer`, `[len(rows), stop - start, width]`."""
        return self.run.states[layer][rows, self.start : self.stop]

    def step(
        self,
        layer: int,
        hidden: Tensor,
        rows: Tensor,
        edits: Mapping[Role, Edit] | None = None,
        cache: Cache | None = None,
    ) -> Tensor:
        """Output of block `layer` for `hidden` `[len(rows), stop - start, width]`.

        Row i is a variant of the run's row `rows[i]`. `edits` change the outputs of the block's parts. `cache` replaces
        the run's keys and values.
        """
        if rows is not self._rows:
            self._rows, self._selected = rows, {}
        self._cache.rows, self._block_cache = rows, self._cache if cache is None else cache
        args, kwargs = self._calls[layer]
        args = tuple(self._select(value) for value in args)
        kwargs = {name: self._select(value) for name, value in kwargs.items()}
        if args:
            args = (hidden, *args[1:])
        else:
            kwargs["hidden_states"] = hidden
        with self._editing(layer, hidden.shape[:2], edits or {}):
            return first_tensor(self.decoder.blocks[layer](*args, **kwargs)).to(self.decoder.device)

    def last_step(self, last: "Resumption", layer: int, hidden: Tensor, rows: Tensor) -> Tensor:
        """Output of block `layer` at the last position only: `[len(rows), 1, width]`.

        The other positions are computed only up to their keys and values. `last` is the same run resumed at its last
        position.
        """
        recorded: list[KeysValues] = []

        def record(keys: Tensor, values: Tensor, _layer: int) -> KeysValues:
            recorded.append((keys, values))
            raise _StopForward

        with suppress(_StopForward):
            self.step(layer, hidden, rows, cache=FunctionCache(record))
        keys, values = self._cache.extend(*recorded[0], layer)
        past = (keys[..., :-1, :], values[..., :-1, :])
        cache = FunctionCache(lambda keys, values, _layer: append(past, (keys, values)))
        return last.step(layer, hidden[:, -1:], rows, cache=cache)

    def _capture_calls(self) -> list[tuple[tuple, dict[str, Any]]]:
        """The arguments with which the model calls each block, without the hidden states."""
        calls: list[tuple[tuple, dict[str, Any]]] = []

        def stub(layer: int, args: tuple, kwargs: dict) -> Tensor:
            state = _hidden_states(args, kwargs)
            calls.append(((None, *args[1:]), kwargs) if args else ((), kwargs | {"hidden_states": None}))
            if layer == self.decoder.layers - 1:
                raise _StopForward
            return state

        run = self.run
        with torch.no_grad(), self.decoder._stubbed(stub):
            try:
                positions = (run.input_ids, run.attention_mask, self.start, self.stop)
                self.decoder._forward(*positions, past_key_values=self._cache, use_cache=True)
            except _StopForward:
                return calls
        raise RuntimeError("the forward pass of the model did not reach its last block")

    def _select(self, value: Any) -> Any:
        """Select the current rows of a block's argument, which is for all rows of the run."""
        if isinstance(value, Cache):
            return self._block_cache
        if isinstance(value, tuple):
            return tuple(self._select(part) for part in value)
        if not isinstance(value, Tensor) or value.ndim < 2:
            return value
        if id(value) not in self._selected:
            self._selected[id(value)] = self._select_rows(value)
        return self._selected[id(value)]

    def _select_rows(self, value: Tensor) -> Tensor:
        if value.shape[0] == 1:
            return value
        assert self._rows is not None
        rows, run_rows = self._rows.to(value.device), self.run.input_ids.shape[0]
        if value.shape[0] == run_rows:
            return value[rows]
        # BLOOM's ALiBi has its heads in the batch dimension: [rows * heads, 1, T].
        return value.view(run_rows, -1, *value.shape[1:])[rows].flatten(0, 1)

    @contextmanager
    def _editing(self, layer: int, shape: Sequence[int], edits: Mapping[Role, Edit]) -> Iterator[None]:
        device = self.decoder.device

        def hook_of(edit: Edit) -> Any:
            def hook(_module: nn.Module, _args: tuple, output: Any) -> Any:
                tensor = first_tensor(output)
                edited = edit(tensor.to(device).view(*shape, -1)).view(tensor.shape).to(tensor.device)
                return (edited, *output[1:]) if isinstance(output, tuple) else edited

            return hook

        parts = {role: self.decoder.part(role, layer) for role in edits}
        with removing([parts[role].register_forward_hook(hook_of(edit)) for role, edit in edits.items()]):
            yield


def _hidden_states(args: tuple, kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]
