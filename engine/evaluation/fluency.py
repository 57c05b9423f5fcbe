"""Quality of sampled texts: fluency (GE), consistency (RS) and essence (Meng et al. 2022, section 3.3).

The published code uses nltk's tokenizer, and scikit-learn's TF-IDF fitted on Wikipedia. This module uses a regular
expression, and the texts that ship with retcon. The protocol says so; the second digit differs from published numbers.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from transformers import PreTrainedTokenizerBase

from ..covariance.corpus import SHIPPED, open_corpus
from ..model.decoder import Decoder
from ..model.generation import sample
from ..model.tokens import encode_prompt
from .cases import Case
from .drift import compute_text_nlls

_WORD = re.compile(r"\w+|[^\w\s]")
_TERM = re.compile(r"\b\w\w+\b")
_TOKENS = 100
_TOP_K = 5

FLUENCY_PROTOCOL = {
    "GE": f"mean over generations of the mean of 2/3 H2 and 4/3 H3, H the entropy in bits of n-grams of"
    f" {_WORD.pattern!r} (published: nltk words); prompt and continue_prompt, {_TOKENS} tokens together, top-{_TOP_K}"
    " sampling",
    "RS": "cosine of TF-IDF vectors of the joined generations and the joined references; terms \\b\\w\\w+\\b in lower"
    " case, idf = ln((1 + n) / (1 + df)) + 1 over the shipped texts (published: over Wikipedia snippets)",
    "ESS": f"exp(-log p / N) of the joined references whose name is the subject, N = {_TOKENS} tokens at most; as"
    " published, N counts the first token, which is not predicted",
}


def sample_texts(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], seed: int
) -> list[str]:
    """Each prompt with a sampled continue_prompt, 100 tokens together. Deterministic for one seed and device."""
    texts = sample(decoder.model, tokenizer, prompts, _TOKENS, _TOP_K, seed)
    return [unicodedata.normalize("NFKD", text).replace("\n\n", " ") for text in texts]


def compute_ngram_entropy(text: str) -> float:
    """The mean of 2/3 H2 and 4/3 H3, where H_n is the entropy in bits of the text's word n-grams."""
    words = _WORD.findall(text)
    return (2 / 3 * _entropy(words, 2) + 4 / 3 * _entropy(words, 3)) / 2


def _entropy(words: Sequence[str], n: int) -> float:
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    total = counts.total()
    return -sum(count / total * math.log2(count / total) for count in counts.values()) + 0.0


@dataclass(frozen=True)
class DocumentFrequencies:
    """The number of documents in which each term occurs, for TF-IDF weights."""

    documents: int
    frequencies: Counter[str] = field(repr=False)

    @classmethod
    def count(cls, documents: Iterable[str]) -> "DocumentFrequencies":
        """Count the terms of some documents."""
        terms_of = [set(_terms(text)) for text in documents]
        return cls(len(terms_of), Counter(term for terms in terms_of for term in terms))

    @classmethod
    def count_shipped(cls) -> "DocumentFrequencies":
        """Count the terms of the texts that ship with retcon."""
        return cls.count(open_corpus(SHIPPED).documents(seed=0))

    def similarity(self, a: str, b: str) -> float:
        """Cosine of the TF-IDF vectors of two texts; 0 if they share no term."""
        one, other = self._vector(a), self._vector(b)
        dot = sum(weight * other.get(term, 0.0) for term, weight in one.items())
        norms = math.hypot(*one.values()) * math.hypot(*other.values())
        return dot / norms if norms else 0.0

    def _vector(self, text: str) -> dict[str, float]:
        return {
            term: count * (math.log((1 + self.documents) / (1 + self.frequencies[term])) + 1)
            for term, count in Counter(_terms(text)).items()
        }


def _terms(text: str) -> list[str]:
    return _TERM.findall(text.lower())


@torch.no_grad()
def compute_essence(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, case: Case) -> float | None:
    """Perplexity of the case's references about its own subject. None if there are no such references."""
    texts = [reference.text for reference in case.references if reference.name == case.subject]
    ids = encode_prompt(tokenizer, " ".join(texts))[:_TOKENS] if texts else []
    return math.exp(compute_text_nlls(decoder, [ids])[0] / len(ids)) if len(ids) > 1 else None
