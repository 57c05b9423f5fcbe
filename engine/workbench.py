"""Trace, edit and evaluate one model in memory, for notebooks and scripts. Uses no catalog, no jobs and no history.

    bench = Workbench.load("starter")
    result = bench.trace("The Eiffel Tower is in the city of", "The Eiffel Tower")
    bench.edit([Request("The Eiffel Tower", "{} is in the city of", "Rome")], layer=bench.propose_layer(result))
    bench.ask("The Eiffel Tower is in the city of")

It combines the modules of this folder, which have more options.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .covariance.collect import CollectionSettings, collect
from .covariance.corpus import open_corpus
from .covariance.moments import FactoredMoment
from .edits import HPARAMS, METHODS
from .edits.batching import split_batches, write_in_batches
from .edits.hparams.files import find_preset
from .edits.method import EditTask, PastEdit, Request
from .errors import InputError
from .evaluation.cases import Case
from .evaluation.intervals import Metric
from .evaluation.run import evaluate, summarize
from .model.anatomy import find_anatomy
from .model.decoder import Decoder
from .model.delta import Delta, Materializer, concatenate
from .model.generation import complete, sample_contexts
from .model.loading import fetch, load_model, load_tokenizer
from .progress import silent
from .tracing.corruption import NoiseCorruption
from .tracing.noise import fit_noise
from .tracing.rules import Kind, NoiseRule
from .tracing.trace import FactTrace, TraceRequest, TraceSettings, trace_one

__all__ = ["Case", "Request", "Workbench"]


class Workbench:
    """A model in memory, its current edits, and the second moments collected from it."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str = "") -> None:
        """Use a loaded model. `source` is its hub id, which selects the shipped hyperparameters.

        Raises:
            UnsupportedModel: the model cannot be edited.
        """
        self.decoder, self.tokenizer, self.source = Decoder(model, find_anatomy(model)), tokenizer, source
        self.edits: list[PastEdit] = []
        self._weights = Materializer(model)
        self._moments: dict[int, FactoredMoment] = {}

    @classmethod
    def load(cls, source: str, device: str = "cpu") -> "Workbench":
        """Load a model from a hub id, a folder, a .gguf file or `starter`.

        Raises:
            InputError: the model does not exist, has a corrupt file, or cannot be edited.
        """
        with tempfile.TemporaryDirectory() as folder:  # for the converted weights of a GGUF
            files = fetch(source, Path(folder) / "model")
            return cls(load_model(files.folder, device), load_tokenizer(files.folder), source)

    def trace(
        self,
        prompt: str,
        subject: str,
        expected: str | None = None,
        *,
        kinds: Sequence[Kind] = ("hidden", "mlp", "attn"),
        samples: int = 10,
        noise: str = "3s",
        window: int = 10,
        seed: int = 1,
    ) -> FactTrace:
        """Trace one fact on the current weights; `scores[kind][token][layer]` of the result is p(answer).

        Raises:
            InputError: the subject is not in the prompt, or the model does not give the expected answer.
        """
        rule = NoiseRule.parse(noise)
        texts = open_corpus("shipped") if rule.needs_texts else None
        fitted = fit_noise(rule, self.decoder, self.tokenizer, [subject], texts)
        settings = TraceSettings(NoiseCorruption(fitted, samples, seed), tuple(kinds), window)
        return trace_one(self.decoder, self.tokenizer, TraceRequest(prompt, subject, expected), settings)

    def propose_layer(self, result: FactTrace) -> int:
        """The layer with the highest p(answer) when its MLP (or hidden state) is restored at the last subject token.

        Only a sweep over layers shows which layer is best for an edit.

        Raises:
            InputError: the trace has neither kind.
        """
        kind = next((kind for kind in ("mlp", "hidden") if kind in result.scores), None)
        if kind is None:
            raise InputError("the trace has no kind that proposes a layer; trace mlp or hidden")
        effects = [-1.0 if p is None else p for p in result.scores[kind][result.located.last]]
        return max(range(len(effects)), key=effects.__getitem__)

    def edit(
        self,
        requests: Sequence[Request],
        method: str = "r-rome",
        *,
        layer: int | None = None,
        texts: str = "shipped",
        max_tokens: int = 100_000,
        seed: int = 1,
    ) -> Delta:
        """Write facts on top of the current edits. `undo` removes them.

        Hyperparameters are the shipped ones of the source, or the method's defaults. The first edit of a layer collects
        its second moment from the base model and `texts`. A method that edits one fact at a time writes them in order.

        Raises:
            InputError: an unknown method, an invalid request, or no layer in the arguments and the hyperparameters.
        """
        if method not in METHODS:
            raise InputError(f"unknown method {method!r}: use one of {', '.join(METHODS)}")
        writer, hparams = (
            METHODS[method],
            find_preset(self.source, method) or HPARAMS[method].parse({}, method),
        )
        if layer is not None:
            hparams = hparams.with_changes(layers=(layer,))
        if not hparams.layers and hparams.needs_layers:
            raise InputError(
                f"there are no hyperparameters for {self.source or 'this model'}; give the layer to edit"
            )
        moments = self._moments_at(writer.layers(hparams), texts, max_tokens, seed)
        contexts = sample_contexts(self.decoder.model, self.tokenizer, hparams.contexts, seed)
        task = EditTask(
            self.decoder, self.tokenizer, requests, moments, hparams, contexts, silent, self.edits, seed=seed
        )
        parts = split_batches(hparams, requests, None)
        delta = concatenate([part.delta for part in write_in_batches(writer, task, parts)])
        self.edits.append(PastEdit(method, list(requests), lambda: delta))
        self._materialize()
        return delta

    def undo(self) -> None:
        """Remove the last edit. Restores exactly the weights from before that edit."""
        self.edits.pop()
        self._materialize()

    def evaluate(self, cases: Sequence[Case], max_new_tokens: int = 20, seed: int = 1) -> dict[str, Metric]:
        """Evaluate facts on the current weights; see `engine.evaluation.metrics` for the metrics."""
        return summarize(evaluate(self.decoder, self.tokenizer, cases, max_new_tokens), seed)

    def ask(self, prompt: str, max_new_tokens: int = 20) -> str:
        """The greedy completion of a prompt with the current weights."""
        return complete(self.decoder.model, self.tokenizer, [prompt], max_new_tokens)[0]

    def _moments_at(
        self, layers: Sequence[int], texts: str, max_tokens: int, seed: int
    ) -> dict[int, FactoredMoment]:
        missing = [layer for layer in layers if layer not in self._moments]
        if missing:
            self._weights.set({})  # a second moment is of the base
            *_, last = collect(
                self.decoder, self.tokenizer, open_corpus(texts), missing,
                CollectionSettings(max_tokens, seed=seed),
            )  # fmt: skip
            self._moments |= {
                layer: FactoredMoment(moment.matrix()) for layer, moment in last.moments.items()
            }
            self._materialize()
        return {layer: self._moments[layer] for layer in layers}

    def _materialize(self) -> None:
        self._weights.set(concatenate(edit.delta() for edit in self.edits))
