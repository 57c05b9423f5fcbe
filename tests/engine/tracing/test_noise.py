"""The published noise rules: parse, fit to a model, draw."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.corpus import Corpus, open_corpus
from retcon.engine.errors import InputError
from retcon.engine.model.decoder import Decoder
from retcon.engine.tracing.noise import fit_noise, gaussian, multivariate, student, uniform
from retcon.engine.tracing.rules import NoiseRule

Decoders = Callable[[str], Decoder]
WIDTH = 8
MEAN = torch.linspace(-1, 1, WIDTH, dtype=torch.float64)


def covariance() -> Tensor:
    factors = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return factors @ factors.T / WIDTH


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("3s", NoiseRule("subjects", 3)),
        (" .5s ", NoiseRule("subjects", 0.5)),
        ("0.4", NoiseRule("gaussian", 0.4)),
        ("2", NoiseRule("gaussian", 2)),
        ("u0.5", NoiseRule("uniform", 0.5)),
        ("u3", NoiseRule("uniform", 3)),
        ("m", NoiseRule("multivariate")),
        ("t3", NoiseRule("student", 3)),
        ("t2.5", NoiseRule("student", 2.5)),
    ],
)
def test_parses_rules(text: str, rule: NoiseRule) -> None:
    assert NoiseRule.parse(text) == rule
    assert rule.needs_texts == (text[0] in "mt")


@pytest.mark.parametrize(
    "text",
    ["", "s", "3x", "-1", "0", "0s", "0.0", "u0", "u", "t", "m3", "1e3", "nan", "inf", "3 s", "s3", "u-1"],
)
def test_invalid_rule_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="noise"):
        NoiseRule.parse(text)


@pytest.mark.parametrize("text", ["t2", "t1", "t0", "t0.5"])
def test_student_without_variance_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="degrees of freedom"):
        NoiseRule.parse(text)


# The published formulas: a draw of RandomState(seed) of [samples, tokens, width], then


def assert_draw(drawn: Tensor, expected: np.ndarray) -> None:
    assert drawn.dtype == torch.float32
    assert drawn.shape == expected.shape
    np.testing.assert_allclose(drawn.numpy(), expected, rtol=1e-6, atol=1e-6)


def test_gaussian_draw() -> None:
    noise = gaussian(0.7)
    assert_draw(noise.draw(3, 2, WIDTH, 5), np.random.RandomState(5).randn(3, 2, WIDTH) * 0.7)
    assert noise.level == 0.7


def test_uniform_draw() -> None:
    noise = uniform(0.7)
    assert_draw(noise.draw(3, 2, WIDTH, 5), np.random.RandomState(5).uniform(-1, 1, (3, 2, WIDTH)) * 0.7)
    assert noise.level == 0.7
    assert noise.draw(50, 4, WIDTH, 1).abs().max() <= 0.7


def colored(white: np.ndarray) -> np.ndarray:
    """x W^T + mean with W = V sqrt(S), of C = U S V^T."""
    _, spread, directions = covariance().svd()
    return white @ (directions * spread.sqrt()[None, :]).numpy().T + MEAN.numpy()


def test_multivariate_draw() -> None:
    noise = multivariate(MEAN, covariance())
    assert_draw(noise.draw(3, 2, WIDTH, 5), colored(np.random.RandomState(5).randn(3, 2, WIDTH)))
    many = noise.draw(20_000, 2, WIDTH, 1).view(-1, WIDTH).double()
    assert (many.mean(0) - MEAN).abs().max() < 0.03
    assert (many.T.cov() - covariance()).abs().max() < 0.03
    assert noise.level is None


@pytest.mark.parametrize("degrees", [3, 2.5, 30])
def test_student_scales_multivariate_draw_per_token(degrees: float) -> None:
    """sqrt((degrees - 2) / u), u of 1000 chi-square draws of RandomState(2), whatever the seed of the noise."""
    noise = student(MEAN, covariance(), degrees)
    factors = np.sqrt((degrees - 2) / np.random.RandomState(2).chisquare(df=degrees, size=1000))
    for seed in (5, 6):
        white = np.random.RandomState(seed).randn(3, 2, WIDTH)
        assert_draw(noise.draw(3, 2, WIDTH, seed), factors[:6].reshape(3, 2, 1) * colored(white))
    assert noise.level is None


def test_student_draw_of_over_1000_tokens() -> None:
    """The published code fails there. The first 1000 values are its values."""
    noise = student(MEAN, covariance(), 3)
    drawn = noise.draw(300, 4, WIDTH, 1)
    factors = np.sqrt(1 / np.random.RandomState(2).chisquare(df=3, size=1000))
    white = np.random.RandomState(1).randn(300, 4, WIDTH)
    assert_draw(drawn[:250], factors.reshape(250, 4, 1) * colored(white[:250]))
    assert drawn.isfinite().all()


def embed(decoder: Decoder, ids: list[int], family: str) -> Tensor:
    """Output of the embedding; Gemma scales its weight."""
    return decoder.embedding.weight[ids] * (32**0.5 if family == "gemma2" else 1.0)


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_level_of_3s_is_of_embedding_outputs(
    family: str, decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    """Over all tokens of all subjects, including start tokens; a repeated subject counts each time."""
    decoder, subjects = decoder_of(family), ["Paris", "The Eiffel Tower", "Paris"]
    ids = [i for subject in subjects for i in words_after_start(subject)["input_ids"]]
    noise = fit_noise(NoiseRule.parse("3s"), decoder, words_after_start, subjects)
    assert noise.level == pytest.approx(3 * embed(decoder, ids, family).std().item(), rel=1e-5)
    expected = np.random.RandomState(2).randn(2, 3, 32) * noise.level
    assert_draw(noise.draw(2, 3, 32, 2), expected)


def test_level_of_other_rules_is_their_number(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    for text in ("0.25", "u0.25"):
        assert fit_noise(NoiseRule.parse(text), decoder_of("gpt2"), words, ["Paris"]).level == 0.25


@pytest.mark.parametrize("text", ["m", "t3"])
def test_some_rules_require_texts(text: str, decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="text"):
        fit_noise(NoiseRule.parse(text), decoder_of("gpt2"), words, ["Paris"])


@pytest.fixture
def corpus(tmp_path: Path, words: PreTrainedTokenizerBase) -> Corpus:
    """230 documents of up to 140 words."""
    vocabulary, random = sorted(words.get_vocab())[4:], np.random.RandomState(0)
    lines = [" ".join(random.choice(vocabulary, 20 + i % 121)) for i in range(230)]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    return open_corpus(str(tmp_path / "texts.txt"))


@pytest.mark.parametrize("family", ["gpt2", "gemma2"])
def test_texts_give_mean_and_covariance(
    family: str, decoder_of: Decoders, words: PreTrainedTokenizerBase, corpus: Corpus
) -> None:
    """Over all tokens of 200 documents, each truncated to 100 tokens."""
    decoder = decoder_of(family)
    documents = [words(text)["input_ids"][:100] for text in list(corpus.documents(seed=1))[:200]]
    assert sum(map(len, documents)) > 10_000
    assert max(map(len, documents)) == 100
    vectors = embed(decoder, [i for document in documents for i in document], family).double().numpy()
    mean, moment = torch.from_numpy(vectors.mean(0)), torch.from_numpy(np.cov(vectors, rowvar=False))
    assert np.linalg.eigvalsh(moment)[0] > 1e-6
    for text, expected in (("m", multivariate(mean, moment)), ("t3", student(mean, moment, 3))):
        noise = fit_noise(NoiseRule.parse(text), decoder, words, ["Paris"], corpus)
        torch.testing.assert_close(noise.draw(3, 2, 32, 1), expected.draw(3, 2, 32, 1), rtol=1e-4, atol=1e-4)
