"""The retrieval baseline: split a passage into chunks, and rank them by a question.

A chunk has three sentences with stride two and the title in front; the best five are used. bm25s ranks them (BM25 in
Lucene's variant), and sentencex splits the sentences. This module imports no torch; a reranker imports it on its first
call.
"""

from collections.abc import Callable, Sequence
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


def split_sentences(text: str) -> list[str]:
    """Split an English text into sentences, each on one line. An empty line also ends a sentence."""
    import sentencex

    lines = (" ".join(one.split()) for one in sentencex.segment("en", text))
    return [one for one in lines if one]


def build_chunks(text: str, title: str) -> list[str]:
    """Chunks of three sentences at every second sentence, each after `title: `. The last one ends the text."""
    sentences = split_sentences(text)
    begins = range(0, max(1, len(sentences) - CHUNK_SENTENCES + STRIDE), STRIDE) if sentences else ()
    prefix = f"{title.strip()}: " if title.strip() else ""
    return [prefix + " ".join(sentences[begin : begin + CHUNK_SENTENCES]) for begin in begins]


class Retriever:
    """An index of the chunks of a passage."""

    def __init__(self, chunks: Sequence[str], rerank: Reranker | None = None) -> None:
        self._chunks, self._rerank = list(chunks), rerank
        self._index: Any = None
        if any(words := [_tokenize(chunk) for chunk in self._chunks]):
            import bm25s

            self._index = bm25s.BM25(method="lucene", backend="numpy")
            self._index.index(words, show_progress=False)

    def search(self, question: str, top: int = TOP) -> list[str]:
        """The `top` best chunks, best first. Chunks with equal scores keep the order of the text."""
        ranked = [self._chunks[i] for i in np.argsort(-self.score(question), kind="stable")]
        if self._rerank is not None:
            candidates = ranked[: top * _CANDIDATES_PER_CHUNK]
            order = np.argsort(-np.asarray(self._rerank(question, candidates)), kind="stable")
            ranked = [candidates[i] for i in order]
        return ranked[:top]

    def score(self, question: str) -> "np.ndarray[Any, Any]":
        """The BM25 score of each chunk."""
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
