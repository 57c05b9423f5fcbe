"""One pass for all layers gives the plain moments, stops where told to, and goes on where it was left."""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from families import FAMILIES
from oracles import plain_second_moment
from retcon.engine.corpus import Corpus
from retcon.engine.covariance import Collected, collect
from retcon.engine.decoder import Decoder
from retcon.engine.errors import Cancelled, InputError
from retcon.engine.progress import Progress
from transformers import PreTrainedTokenizerBase
from untouched import assert_untouched

Decoders = Callable[[str], Decoder]
MANY = 10**9


def corpus(documents: int = 10) -> Corpus:
    chance = random.Random(0)
    words = [
        "the",
        "city",
        "of",
        "Paris",
        "is",
        "located",
        "in",
        "France",
        "and",
        "Toyota",
        "plays",
        "football",
    ]
    return Corpus(
        "made up", "0", [" ".join(chance.choices(words, k=chance.randint(1, 20))) for _ in range(documents)]
    )


def all_of(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, texts: Corpus, **changes: object
) -> list[Collected]:
    """Each yield, copied: going on adds into the same sums."""
    settings: dict = {"layers": [0, 2], "max_tokens": MANY, "max_length": 64} | changes
    layers = settings.pop("layers")
    return [copy.deepcopy(state) for state in collect(decoder, tokenizer, texts, layers, **settings)]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retcon.engine.covariance._BLOCK_DOCUMENTS", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_in_one_pass_equal_one_layer_and_document_at_a_time(
    family: str, decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    decoder, texts = decoder_of(family), corpus()
    documents = [words_after_start(text)["input_ids"] for text in texts.documents(1)]
    last = all_of(decoder, words_after_start, texts, layers=[0, 2, 3])[-1]
    assert last.finished
    assert last.documents == 10
    for layer in (0, 2, 3):
        expected = plain_second_moment(decoder.model, decoder.anatomy, documents, layer)
        assert last.moments[layer].tokens == sum(map(len, documents))
        assert (last.moments[layer].matrix() - expected).norm() < 1e-6 * expected.norm()
    assert_untouched(decoder.model)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("documents", [3, 4, 10, 12])
def test_going_on_from_any_yield_gives_the_same_bits(
    documents: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("gpt2")
    states = all_of(decoder, words, corpus(documents))
    assert [state.finished for state in states] == [False] * (len(states) - 1) + [True]
    assert states[-1].documents == documents
    for state in states[:-1]:
        resumed = all_of(decoder, words, corpus(documents), start=copy.deepcopy(state))
        assert len(resumed) == len(states) - state.blocks
        for layer in (0, 2):
            assert torch.equal(resumed[-1].moments[layer].total, states[-1].moments[layer].total)
            assert resumed[-1].moments[layer].tokens == states[-1].moments[layer].tokens
        assert (resumed[-1].blocks, resumed[-1].documents) == (states[-1].blocks, states[-1].documents)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("max_tokens", [1, 7, 40, 41, 60])
def test_the_number_of_tokens_is_met_exactly(
    max_tokens: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, texts = decoder_of("llama"), corpus()
    last = all_of(decoder, words, texts, max_tokens=max_tokens)[-1]
    assert last.finished
    assert {moment.tokens for moment in last.moments.values()} == {max_tokens}
    documents, wanted = [], max_tokens
    for text in texts.documents(1):
        documents.append(words(text)["input_ids"][:wanted])
        wanted -= len(documents[-1])
    expected = plain_second_moment(decoder.model, decoder.anatomy, [ids for ids in documents if ids], 2)
    assert (last.moments[2].matrix() - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.usefixtures("small_blocks")
def test_a_target_met_in_an_early_block_reads_no_further(
    decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    states = all_of(decoder_of("llama"), words, corpus(12), max_tokens=5)
    assert [state.documents for state in states] == [4]


def test_documents_are_cut_at_the_maximal_length(
    decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    decoder, texts = decoder_of("llama"), corpus()
    documents = [words_after_start(text)["input_ids"] for text in texts.documents(1)]
    assert max(map(len, documents)) > 6
    last = all_of(decoder, words_after_start, texts, max_length=6)[-1]
    cut = [ids[:6] for ids in documents]
    expected = plain_second_moment(decoder.model, decoder.anatomy, cut, 0)
    assert last.moments[0].tokens == sum(map(len, cut))
    assert (last.moments[0].matrix() - expected).norm() < 1e-6 * expected.norm()


def test_the_size_of_a_batch_does_not_matter(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = all_of(decoder_of("gemma2"), words, corpus())[-1].moments[2].matrix()
    monkeypatch.setattr("retcon.engine.covariance._TOKENS_AT_ONCE", 30)
    narrow = all_of(decoder_of("gemma2"), words, corpus())[-1].moments[2].matrix()
    assert (narrow - wide).norm() < 1e-6 * wide.norm()


def test_the_seed_decides_which_documents_come_first(
    decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    def some(seed: int) -> torch.Tensor:
        return all_of(decoder_of("gpt2"), words, corpus(), max_tokens=20, seed=seed)[-1].moments[0].total

    assert torch.equal(some(1), some(1))
    assert not torch.equal(some(1), some(2))


@pytest.mark.parametrize("layers", [[4], [0, -1]])
def test_a_layer_that_is_not_there(
    layers: list[int], decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match="no layer"):
        all_of(decoder_of("llama"), words, corpus(), layers=layers)


@pytest.mark.usefixtures("small_blocks")
def test_cancelling_leaves_no_hook_and_reports_rise(
    decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, reports = decoder_of("bloom"), list[Progress]()
    all_of(decoder, words, corpus(), report=reports.append)
    done = [progress.done for progress in reports]
    assert done == sorted(done)
    assert done[0] == 0

    def stop(_progress: Progress) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        all_of(decoder, words, corpus(), report=stop)
    assert_untouched(decoder.model)
