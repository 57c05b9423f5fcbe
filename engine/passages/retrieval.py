"""The retrieval baseline: split a passage into chunks, and rank them by a question.

A chunk has three sentences with stride two and the title in front; the best five are used. bm25s ranks them (BM25 in
Lucene's variant), and sentencex splits the sentences. This module imports no torch; a reranker imports it on its first
call.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from ..model.decoder import Decoder

CHUNK_SENTENCES, STRIDE, TOP = 3, 2, 5
# The reranker scores this many of the best chunks by BM25 for each chunk in the result.
_CANDIDATES_PER_CHUNK = 4
# Sachan et al. 2022, "Improving passage retrieval with zero-shot question generation", section 2.2.
_RERANK_PROMPT = "Passage: {chunk}. Please write a question based on this passage."

# (question, chunks) -> one score per chunk. A higher score is better.
Reranker = Callable[[str, Sequence[str]], Sequence[float]]


def split_sentences(text: str, language: str = "en") -> list[str]:
    """Split a text into sentences, each on one line. An empty line also ends a sentence.

    `language` is an ISO 639-1 code. It selects the abbreviations that do not end a sentence.
    """
    import sentencex

    lines = (" ".join(one.split()) for one in sentencex.segment(language, text))
    return [one for one in lines if one]


def build_chunks(
    text: str, title: str, size: int = CHUNK_SENTENCES, stride: int = STRIDE, language: str = "en"
) -> list[str]:
    """Chunks of `size` sentences at every `stride`-th sentence, each after `title: `. The last one ends the text."""
    sentences = split_sentences(text, language)
    begins = range(0, max(1, len(sentences) - size + stride), stride) if sentences else ()
    prefix = f"{title.strip()}: " if title.strip() else ""
    return [prefix + " ".join(sentences[begin : begin + size]) for begin in begins]


@dataclass(frozen=True)
class ScoredChunk:
    """A chunk with its score: that of the reranker if there is one, else that of BM25."""

    chunk: str
    score: float


class Retriever:
    """An index of the chunks of a passage."""

    def __init__(self, chunks: Sequence[str], rerank: Reranker | None = None) -> None:
        self._chunks, self._rerank = list(chunks), rerank
        self._index: Any = None
        if any(words := [_tokenize(chunk) for chunk in self._chunks]):
            import bm25s

            self._index = bm25s.BM25(method="lucene", backend="numpy")
            self._index.index(words, show_progress=False)

    def search(self, question: str, top: int = TOP) -> list[ScoredChunk]:
        """The `top` best chunks, best first. Chunks with equal scores keep the order of the text."""
        scores = self._score(question)
        order = np.argsort(-scores, kind="stable").tolist()
        if self._rerank is None:
            return [ScoredChunk(self._chunks[i], float(scores[i])) for i in order[:top]]
        candidates = [self._chunks[i] for i in order[: top * _CANDIDATES_PER_CHUNK]]
        reranked = map(ScoredChunk, candidates, self._rerank(question, candidates))
        return sorted(reranked, key=lambda one: -one.score)[:top]

    def _score(self, question: str) -> "np.ndarray[Any, Any]":
        words = _tokenize(question)
        if self._index is None or not words:
            return np.zeros(len(self._chunks))
        return np.asarray(self._index.get_scores(words))


def _tokenize(text: str) -> list[str]:
    """bm25s's default: words of two or more characters in lower case, without English stop words."""
    import bm25s

    [words] = bm25s.tokenize([text], return_ids=False, show_progress=False)
    return list(words)


def build_likelihood_reranker(decoder: "Decoder", tokenizer: "PreTrainedTokenizerBase") -> Reranker:
    """A reranker that scores a chunk by the mean log p of the question's tokens after it (Sachan et al. 2022).

    It uses the model itself, with one forward pass per candidate and question.
    """
    from ..evaluation.scoring import score_targets

    def rerank(question: str, chunks: Sequence[str]) -> list[float]:
        pairs = [(_RERANK_PROMPT.format(chunk=chunk.rstrip(".")), question) for chunk in chunks]
        return [-score.nll for score in score_targets(decoder, tokenizer, pairs)]

    return rerank
