"""Sentences, chunks and their ranking on a small text."""

import math
import subprocess
import sys
from collections.abc import Callable

import pytest
from transformers import PreTrainedTokenizerBase

from retcon.engine.model.decoder import Decoder
from retcon.engine.passages.retrieval import (
    Retriever,
    build_chunks,
    build_likelihood_reranker,
    split_sentences,
)
from retcon.tests.helpers.plain_evaluation import plain_score

TEXT = (
    "Dr. J. K. Lindqvist plays the cello. She studied e.g. with Prof. Berg at the U.S. Army school.\n\n"
    "It cost $3.5 million! Was it worth it? Nobody knows."
)


def test_abbreviations_do_not_end_a_sentence() -> None:
    assert split_sentences(TEXT) == [
        "Dr. J. K. Lindqvist plays the cello.",
        "She studied e.g. with Prof. Berg at the U.S. Army school.",
        "It cost $3.5 million!",
        "Was it worth it?",
        "Nobody knows.",
    ]
    assert split_sentences(" \n\n ") == []


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, []), (1, ["A"]), (3, ["ABC"]), (4, ["ABC", "CD"]), (5, ["ABC", "CDE"]), (6, ["ABC", "CDE", "EF"])],
)
def test_chunks(count: int, expected: list[str]) -> None:
    letters = "ABCDEF"[:count]
    chunks = build_chunks(" ".join(f"{letter} is here." for letter in letters), "Marta")
    assert chunks == ["Marta: " + " ".join(f"{letter} is here." for letter in one) for one in expected]


def test_ranking_is_bm25() -> None:
    """Lucene's formula: k1 1.5, b 0.75, over words without stop words."""
    texts = ["The cello is a cello", "dogs bark loudly at dogs in town", "the cello of the town"]
    retriever, question = Retriever(texts), "Is the cello in town?"
    lengths, counts = [2, 5, 2], [{"cello": 2}, {"town": 1}, {"cello": 1, "town": 1}]

    def score(i: int) -> float:
        idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))  # both words are in two of three texts
        norm = 1.5 * (1 - 0.75 + 0.75 * lengths[i] / 3)
        return sum(idf * n / (n + norm) for n in counts[i].values())

    assert retriever.search(question, top=3) == [texts[2], texts[0], texts[1]]
    assert retriever.score(question) == pytest.approx([score(0), score(1), score(2)], rel=1e-5)


def test_chunks_without_shared_words_keep_their_order() -> None:
    """No shared word, only stop words, or no chunks."""
    texts = ["one cello", "two cellos", "three"]
    for question in ("Zürich?", "is it the", ""):
        assert Retriever(texts).search(question, top=2) == texts[:2]
    assert Retriever([]).search("cello") == []
    assert Retriever(["the", "is"]).search("cello") == ["the", "is"]


def test_reranker_scores_by_question_likelihood(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("llama")
    texts = [f"The {word} is located in the city." for word in ("Eiffel", "Tower", "Camry", "Paris", "Rome")]
    question = "The city of Paris"
    expected = []
    for text in texts:
        asking = f"Passage: {text} Please write a question based on this passage."
        expected.append(-plain_score(decoder, words, asking, question)[0])
    rerank = build_likelihood_reranker(decoder, words)
    assert rerank(question, texts) == pytest.approx(expected, abs=1e-4)
    best = sorted(range(5), key=lambda i: -expected[i])
    results = Retriever(texts, rerank).search(question, top=2)
    assert results == [texts[i] for i in best[:2]]


def test_retrieval_imports_nothing_heavy() -> None:
    program = (
        "import sys; from retcon.engine.passages.retrieval import Retriever; Retriever(['a cat']).search('cat');"
        "print(sorted({'torch', 'numba', 'jax', 'scipy', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
