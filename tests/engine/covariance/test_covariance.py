"""One pass collects the plain moments of all layers, stops at its limits, and resumes to the same bits."""

import copy
import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.collect import CollectionSettings, CollectionState, collect
from retcon.engine.covariance.corpus import Corpus
from retcon.engine.errors import InputError, StopRequested
from retcon.engine.model.decoder import Decoder
from retcon.engine.progress import Progress
from retcon.tests.helpers.families import FAMILIES
from retcon.tests.helpers.oracles import plain_second_moment, reading_input
from retcon.tests.helpers.untouched import assert_untouched

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


def collect_states(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, texts: Corpus, **changes: object
) -> list[CollectionState]:
    """A copy of each state: the collection adds to the same tensors."""
    settings: dict = {"layers": [0, 2], "max_tokens": MANY, "max_length": 64} | changes
    layers = settings.pop("layers")
    rest = {name: settings.pop(name) for name in ("start", "report") if name in settings}
    states = collect(decoder, tokenizer, texts, layers, CollectionSettings(**settings), **rest)
    return [copy.deepcopy(state) for state in states]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retcon.engine.covariance.collect.BLOCK_DOCUMENTS", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_one_pass_equals_plain_moments(
    family: str, decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    decoder, texts = decoder_of(family), corpus()
    documents = [words_after_start(text)["input_ids"] for text in texts.documents(1)]
    last = collect_states(decoder, words_after_start, texts, layers=[0, 2, 3])[-1]
    assert last.is_finished
    assert last.documents == 10
    for layer in (0, 2, 3):
        expected = plain_second_moment(decoder.model, decoder.anatomy, documents, layer)
        assert last.moments[layer].tokens == sum(map(len, documents))
        assert (last.moments[layer].matrix() - expected).norm() < 1e-6 * expected.norm()
    assert_untouched(decoder.model)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("documents", [3, 4, 10, 12])
def test_resumed_collection_has_the_same_bits(
    documents: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("gpt2")
    states = collect_states(decoder, words, corpus(documents))
    assert [state.is_finished for state in states] == [False] * (len(states) - 1) + [True]
    assert states[-1].documents == documents
    for state in states[:-1]:
        resumed = collect_states(decoder, words, corpus(documents), start=copy.deepcopy(state))
        assert len(resumed) == len(states) - state.blocks
        for layer in (0, 2):
            assert torch.equal(resumed[-1].moments[layer].total, states[-1].moments[layer].total)
            assert resumed[-1].moments[layer].tokens == states[-1].moments[layer].tokens
        assert (resumed[-1].blocks, resumed[-1].documents) == (states[-1].blocks, states[-1].documents)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first", [1, 9, 40, 57])
@pytest.mark.parametrize("then", [60, 90, MANY])
def test_extended_collection_has_the_same_bits(
    first: int, then: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("gpt2")
    short = collect_states(decoder, words, corpus(), max_tokens=first)[-1]
    longer = collect_states(
        decoder, words, corpus(), max_tokens=then, start=short.before_cut or as_unfinished(short)
    )[-1]
    at_once = collect_states(decoder, words, corpus(), max_tokens=then)[-1]
    assert short.tokens == first < longer.tokens == at_once.tokens
    assert (longer.blocks, longer.documents) == (at_once.blocks, at_once.documents)
    assert_equal(longer, at_once)


def as_unfinished(state: CollectionState) -> CollectionState:
    """A state after whole blocks that a collection can resume from."""
    return dataclasses.replace(state, is_finished=False)


def assert_equal(one: CollectionState, other: CollectionState) -> None:
    """Both states have the same bits, probes and curves."""
    for layer, moment in one.moments.items():
        assert torch.equal(moment.matrix(), other.moments[layer].matrix())
        actual, expected = moment.convergence, other.moments[layer].convergence
        assert torch.equal(actual.probes, expected.probes)
        assert (actual.curve, actual.checked_tokens) == (expected.curve, expected.checked_tokens)


def varied_corpus(documents: int = 200) -> Corpus:
    """Texts with enough words for a second moment of full rank (56)."""
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(50)}" for _ in range(12)) for _ in range(documents)]
    return Corpus("varied_corpus", "0", texts)


@pytest.mark.usefixtures("small_blocks")
def test_curve_equals_plain_solves(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("llama")
    states = collect_states(decoder, words, varied_corpus())
    matrices = {state.tokens: state.moments[2].matrix() for state in states}
    convergence = states[-1].moments[2].convergence
    documents = [words(text)["input_ids"] for text in list(varied_corpus().documents(1))[:4]]
    assert convergence.probes.shape == (56, 4)
    plain = []
    for document in sorted(documents, key=len, reverse=True):
        with torch.no_grad():
            keys: list[torch.Tensor] = []
            with reading_input(decoder.part("matrix", 2), keys):
                decoder.model(torch.tensor([document]))
        plain.append(keys[0].view(len(document), -1)[len(document) // 2].double())
    probes = torch.stack(plain, dim=1)
    assert torch.allclose(convergence.probes, probes, atol=1e-5)
    assert len(convergence.curve) >= 3
    ends = [point.tokens for point in convergence.curve]
    assert all(later >= 2 * earlier for earlier, later in itertools.pairwise(ends))
    for before, point in itertools.pairwise(convergence.curve):
        one, other = (torch.linalg.inv(matrices[p.tokens]) @ convergence.probes for p in (before, point))
        direction_change = 1 - torch.cosine_similarity(one, other, dim=0)
        assert abs(direction_change.mean() - point.mean) < 1e-8
        assert abs(direction_change.max() - point.largest) < 1e-8
    # The direction change falls with more text; convergence relies on it.
    assert convergence.curve[-1].mean < convergence.curve[0].mean / 2


def test_probe_among_keys_keeps_direction() -> None:
    chance = torch.Generator().manual_seed(0)
    keys = torch.randn(100, 20, dtype=torch.float64, generator=chance)
    probe = torch.randn(20, dtype=torch.float64, generator=chance)
    without = keys.T @ keys
    with_it = without + torch.outer(probe, probe)
    one, other = (torch.linalg.solve(matrix, probe) for matrix in (without, with_it))
    assert 1 - torch.cosine_similarity(one, other, dim=0) < 1e-14


@pytest.mark.usefixtures("small_blocks")
def test_stops_exactly_when_converged(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("llama")
    full = collect_states(decoder, words, varied_corpus())
    points = full[-1].moments[0].convergence.curve, full[-1].moments[2].convergence.curve
    worst = [max(one.mean, other.mean) for one, other in zip(*points, strict=True)]
    tolerance = worst[1] if worst[1] < worst[0] else worst[0]
    stop = next(point.tokens for point, mean in zip(points[0], worst, strict=True) if mean <= tolerance)
    states = collect_states(decoder, words, varied_corpus(), tolerance=tolerance)
    assert states[-1].is_finished and states[-1].tokens == stop < full[-1].tokens
    assert states[-1].before_cut is None
    for state in states[:-1]:
        resumed = collect_states(
            decoder, words, varied_corpus(), tolerance=tolerance, start=copy.deepcopy(state)
        )[-1]
        assert resumed.tokens == stop
        assert_equal(resumed, states[-1])
    # A converged collection can be extended, to the same bits.
    extended = collect_states(decoder, words, varied_corpus(), start=as_unfinished(states[-1]))[-1]
    assert_equal(extended, full[-1])


@pytest.mark.usefixtures("small_blocks")
def test_singular_moment_never_converges(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    """Two words give fewer directions than key_width, so C stays singular."""
    few = Corpus("few", "0", ["Paris Rome"] * 400)
    last = collect_states(decoder_of("gpt2"), words, few, tolerance=1.0)[-1]
    assert last.documents == 400
    assert last.moments[0].convergence.curve == []
    assert last.moments[0].convergence.directions is None


@pytest.mark.usefixtures("small_blocks")
def test_total_is_estimated_from_documents_so_far(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, small_blocks: None
) -> None:
    """The corpus has fewer tokens than `max_tokens`. After half of the documents, the estimate is close."""
    reports = list[Progress]()
    texts = corpus(40)
    *_, state = collect_states(decoder_of("llama"), words, texts, max_tokens=10**6, report=reports.append)
    assert reports[0].total == 10**6
    halfway = next(one for one in reports if one.done > state.tokens / 2)
    assert halfway.total == pytest.approx(state.tokens, rel=0.2)


@pytest.mark.parametrize("max_tokens", [1, 7, 40, 41, 60])
def test_max_tokens_is_exact(max_tokens: int, decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder, texts = decoder_of("llama"), corpus()
    last = collect_states(decoder, words, texts, max_tokens=max_tokens)[-1]
    assert last.is_finished
    assert {moment.tokens for moment in last.moments.values()} == {max_tokens}
    documents, left = [], max_tokens
    for text in texts.documents(1):
        documents.append(words(text)["input_ids"][:left])
        left -= len(documents[-1])
    expected = plain_second_moment(decoder.model, decoder.anatomy, [ids for ids in documents if ids], 2)
    assert (last.moments[2].matrix() - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.usefixtures("small_blocks")
def test_reads_no_block_after_max_tokens(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    states = collect_states(decoder_of("llama"), words, corpus(12), max_tokens=5)
    assert [state.documents for state in states] == [1]


def test_documents_are_truncated(decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase) -> None:
    decoder, texts = decoder_of("llama"), corpus()
    documents = [words_after_start(text)["input_ids"] for text in texts.documents(1)]
    assert max(map(len, documents)) > 6
    last = collect_states(decoder, words_after_start, texts, max_length=6)[-1]
    cut = [ids[:6] for ids in documents]
    expected = plain_second_moment(decoder.model, decoder.anatomy, cut, 0)
    assert last.moments[0].tokens == sum(map(len, cut))
    assert (last.moments[0].matrix() - expected).norm() < 1e-6 * expected.norm()


def test_batch_size_does_not_change_moments(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = collect_states(decoder_of("gemma2"), words, corpus())[-1].moments[2].matrix()
    monkeypatch.setattr("retcon.engine.covariance.collect.READING_TOKENS", 30)
    narrow = collect_states(decoder_of("gemma2"), words, corpus())[-1].moments[2].matrix()
    assert (narrow - wide).norm() < 1e-6 * wide.norm()


def test_seed_shuffles_documents(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    def some(seed: int) -> torch.Tensor:
        return (
            collect_states(decoder_of("gpt2"), words, corpus(), max_tokens=20, seed=seed)[-1].moments[0].total
        )

    assert torch.equal(some(1), some(1))
    assert not torch.equal(some(1), some(2))


@pytest.mark.parametrize("layers", [[4], [0, -1]])
def test_layer_out_of_range_is_refused(
    layers: list[int], decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match="out of range"):
        collect_states(decoder_of("llama"), words, corpus(), layers=layers)


@pytest.mark.usefixtures("small_blocks")
def test_stop_leaves_no_hook(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder, reports = decoder_of("bloom"), list[Progress]()
    collect_states(decoder, words, corpus(), report=reports.append)
    done = [progress.done for progress in reports]
    assert done == sorted(done)
    assert done[0] == 0

    def stop(_progress: Progress) -> None:
        raise StopRequested

    with pytest.raises(StopRequested):
        collect_states(decoder, words, corpus(), report=stop)
    assert_untouched(decoder.model)
