"""The science on one model in memory, for notebooks and scripts: no catalog, no jobs, no history on disk.

    bench = Workbench.load("starter")
    traced = bench.trace("The Eiffel Tower is in the city of", "The Eiffel Tower")
    bench.edit([Request("The Eiffel Tower", "{} is in the city of", "Rome")], layer=bench.locate(traced))

It only puts together what stands in the modules beside it; see those for what each part does and can do more.
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
    """A model in memory, the edits that it holds now, and the second moments read from it so far."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str = "") -> None:
        """Around a model that is already loaded; `source` is its hub id, by which shipped settings are found.

        Raises:
            InputError: the model cannot be edited; says why.
        """
        self.decoder, self.tokenizer, self.source = Decoder(model, find_anatomy(model)), tokenizer, source
        self.edits: list[PastEdit] = []
        self._weights = Materializer(model)
        self._moments: dict[int, FactoredMoment] = {}

    @classmethod
    def load(cls, source: str, device: str = "cpu") -> "Workbench":
        """A hub id, a folder, a .gguf file or `starter`.

        Raises:
            InputError: no such model, a damaged file, or one that cannot be edited.
        """
        with tempfile.TemporaryDirectory() as folder:  # only a GGUF's converted weights are written there
            fetched = fetch(source, Path(folder) / "model")
            return cls(load_model(fetched.folder, device), load_tokenizer(fetched.folder), source)

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
        """Trace one fact on the model as it is now; `scores[kind][token][layer]` of the result is p(answer).

        Raises:
            InputError: the subject is not in the prompt, or the model does not say what is expected.
        """
        rule = NoiseRule.parse(noise)
        texts = open_corpus("shipped") if rule.needs_texts else None
        level = fit_noise(rule, self.decoder, self.tokenizer, [subject], texts)
        settings = TraceSettings(NoiseCorruption(level, samples, seed), tuple(kinds), window)
        return trace_one(self.decoder, self.tokenizer, TraceRequest(prompt, subject, expected), settings)

    def locate(self, traced: FactTrace) -> int:
        """The layer whose MLP (else whose hidden state), restored at the last subject token, wins back most.

        A proposal: which layer takes an edit best is seen by editing.

        Raises:
            InputError: neither was traced.
        """
        kind = next((kind for kind in ("mlp", "hidden") if kind in traced.scores), None)
        if kind is None:
            raise InputError("trace mlp or hidden to have a layer proposed")
        effects = [-1.0 if p is None else p for p in traced.scores[kind][traced.located.end - 1]]
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
        """Write facts on top of the edits that the model holds; it holds them from then on. `undo` takes them out.

        Settings are the shipped ones of the source, else the method's own. Second moments are read from the base's
        run over `texts` when a layer is first edited. A method for one fact writes them one after another.

        Raises:
            InputError: no such method, a request that cannot be written, or no layer named where no setting names one.
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
                f"there are no settings for {self.source or 'this model'}: name the layer to edit"
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
        """Take out the last edit: the weights are those of before it, to the bit."""
        self.edits.pop()
        self._materialize()

    def evaluate(self, cases: Sequence[Case], max_new_tokens: int = 20, seed: int = 1) -> dict[str, Metric]:
        """Score facts on the model as it is now; engine.metrics says what each metric means."""
        return summarize(evaluate(self.decoder, self.tokenizer, cases, max_new_tokens), seed)

    def ask(self, prompt: str, max_new_tokens: int = 20) -> str:
        """What the model as it is now goes on with, greedily."""
        return complete(self.decoder.model, self.tokenizer, [prompt], max_new_tokens)[0]

    def _moments_at(
        self, layers: Sequence[int], texts: str, max_tokens: int, seed: int
    ) -> dict[int, FactoredMoment]:
        missing = [layer for layer in layers if layer not in self._moments]
        if missing:
            self._weights.set({})  # they describe the base, whatever it holds now
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
