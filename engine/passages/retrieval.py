"""The passage looked up instead of learnt: chunks of a text, and those of them that a question asks for.

The cut is that of the experiment which the project began with: three sentences, stride two, the name in front, the five
best. bm25s does the ranking (Robertson's BM25 as Lucene has it); sentencex knows where a sentence ends. Loads no torch:
a re-ranker that asks the model does so when it is called.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model.decoder import Decoder

SENTENCES, STRIDE, TOP = 3, 2, 5
# How many of the best by BM25 a re-ranker sees, for each chunk that is wanted.
_CANDIDATES = 4
# Sachan et al. 2022, "Improving passage retrieval with zero-shot question generation", section 2.2.
_ASKING = "Passage: {chunk}. Please write a question based on this passage."

# Takes a question and chunks, and gives a score for each: the higher, the better it fits.
Rerank = Callable[[str, Sequence[str]], Sequence[float]]


def sentences(text: str, language: str = "en") -> list[str]:
    """The sentences of a text, each as one line; a line that is left empty ends one too.

    `language` is an ISO 639-1 code, for the abbreviations that end no sentence.
    """
    import sentencex

    found = (" ".join(one.split()) for one in sentencex.segment(language, text))
    return [one for one in found if one]


def chunks(
    text: str, name: str, size: int = SENTENCES, stride: int = STRIDE, language: str = "en"
) -> list[str]:
    """`size` sentences each, beginning at every `stride`-th, with `name: ` in front; the last ends with the text."""
    parts = sentences(text, language)
    begins = range(0, max(1, len(parts) - size + stride), stride) if parts else ()
    front = f"{name.strip()}: " if name.strip() else ""
    return [front + " ".join(parts[begin : begin + size]) for begin in begins]


@dataclass(frozen=True)
class Found:
    """A chunk with its score: BM25's, or that of the re-ranker which put it in its place."""

    chunk: str
    score: float


class Retriever:
    """The chunks of a passage, ready to be searched."""

    def __init__(self, chunks: Sequence[str], rerank: Rerank | None = None) -> None:
        self._chunks, self._rerank = list(chunks), rerank
        self._index: Any = None
        if any(found := [_words(chunk) for chunk in self._chunks]):
            import bm25s

            self._index = bm25s.BM25(method="lucene", backend="numpy")
            self._index.index(found, show_progress=False)

    def search(self, question: str, top: int = TOP) -> list[Found]:
        """The `top` best chunks, best first; of equal ones, and of those that share no word, the earlier first."""
        scores = self._scores(question)
        order = np.argsort(-scores, kind="stable").tolist()
        if self._rerank is None:
            return [Found(self._chunks[i], float(scores[i])) for i in order[:top]]
        seen = [self._chunks[i] for i in order[: top * _CANDIDATES]]
        scored = [Found(*pair) for pair in zip(seen, self._rerank(question, seen), strict=True)]
        return sorted(scored, key=lambda one: -one.score)[:top]

    def _scores(self, question: str) -> "np.ndarray[Any, Any]":
        words = _words(question)
        if self._index is None or not words:
            return np.zeros(len(self._chunks))
        return np.asarray(self._index.get_scores(words))


def _words(text: str) -> list[str]:
    """Small-letter words of two characters or more, English stop words left out: bm25s's own rule."""
    import bm25s

    [found] = bm25s.tokenize([text], return_ids=False, show_progress=False)
    return list(found)


def question_likelihood(decoder: "Decoder", tokenizer: "PreTrainedTokenizerBase") -> Rerank:
    """Re-rank by how likely the model itself finds the question after the chunk: mean log p of its tokens (Sachan et
    al. 2022). Needs no other model, and one pass over every candidate for each question.
    """
    from ..evaluation.scoring import score_targets

    def rerank(question: str, chunks: Sequence[str]) -> list[float]:
        asked = [(_ASKING.format(chunk=chunk.rstrip(".")), question) for chunk in chunks]
        return [-score.nll for score in score_targets(decoder, tokenizer, asked)]

    return rerank
