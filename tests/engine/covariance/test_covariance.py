"""One pass for all layers gives the plain moments, stops where told to, and goes on where it was left."""

import copy
import dataclasses
import itertools
import random
from collections.abc import Callable

import pytest
import torch
from retcon.engine.covariance.collect import CollectionSettings, CollectionState, collect
from retcon.engine.covariance.corpus import Corpus
from retcon.engine.errors import InputError, StopRequested
from retcon.engine.model.decoder import Decoder
from retcon.engine.progress import Progress
from retcon.tests.helpers.families import FAMILIES
from retcon.tests.helpers.oracles import plain_second_moment, reading_input
from retcon.tests.helpers.untouched import assert_untouched
from transformers import PreTrainedTokenizerBase

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
) -> list[CollectionState]:
    """Each yield, copied: going on adds into the same sums."""
    settings: dict = {"layers": [0, 2], "max_tokens": MANY, "max_length": 64} | changes
    layers = settings.pop("layers")
    rest = {name: settings.pop(name) for name in ("start", "report") if name in settings}
    states = collect(decoder, tokenizer, texts, layers, CollectionSettings(**settings), **rest)
    return [copy.deepcopy(state) for state in states]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retcon.engine.covariance.collect._BLOCK_DOCUMENTS", 4)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_layers_in_one_pass_equal_one_layer_and_document_at_a_time(
    family: str, decoder_of: Decoders, words_after_start: PreTrainedTokenizerBase
) -> None:
    decoder, texts = decoder_of(family), corpus()
    documents = [words_after_start(text)["input_ids"] for text in texts.documents(1)]
    last = all_of(decoder, words_after_start, texts, layers=[0, 2, 3])[-1]
    assert last.is_finished
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
    assert [state.is_finished for state in states] == [False] * (len(states) - 1) + [True]
    assert states[-1].documents == documents
    for state in states[:-1]:
        resumed = all_of(decoder, words, corpus(documents), start=copy.deepcopy(state))
        assert len(resumed) == len(states) - state.blocks
        for layer in (0, 2):
            assert torch.equal(resumed[-1].moments[layer].total, states[-1].moments[layer].total)
            assert resumed[-1].moments[layer].tokens == states[-1].moments[layer].tokens
        assert (resumed[-1].blocks, resumed[-1].documents) == (states[-1].blocks, states[-1].documents)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("first", [1, 9, 40, 57])
@pytest.mark.parametrize("then", [60, 90, MANY])
def test_more_tokens_later_give_the_same_bits(
    first: int, then: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("gpt2")
    short = all_of(decoder, words, corpus(), max_tokens=first)[-1]
    longer = all_of(decoder, words, corpus(), max_tokens=then, start=short.before_cut or going_on(short))[-1]
    at_once = all_of(decoder, words, corpus(), max_tokens=then)[-1]
    assert short.tokens == first < longer.tokens == at_once.tokens
    assert (longer.blocks, longer.documents) == (at_once.blocks, at_once.documents)
    assert_equal(longer, at_once)


def going_on(state: CollectionState) -> CollectionState:
    """A state after whole blocks, as one that is to go on."""
    return dataclasses.replace(state, is_finished=False)


def assert_equal(one: CollectionState, other: CollectionState) -> None:
    """The same bits, probes and curves."""
    for layer, moment in one.moments.items():
        assert torch.equal(moment.matrix(), other.moments[layer].matrix())
        mine, others = moment.convergence, other.moments[layer].convergence
        assert torch.equal(mine.probes, others.probes)
        assert (mine.curve, mine.checked_tokens) == (others.curve, others.checked_tokens)


def varied(documents: int = 200) -> Corpus:
    """Texts of so many words that keys of width 56 get a second moment of full rank."""
    chance = random.Random(0)
    texts = [" ".join(f"w{chance.randrange(50)}" for _ in range(12)) for _ in range(documents)]
    return Corpus("varied", "0", texts)


@pytest.mark.usefixtures("small_blocks")
def test_the_curve_is_that_of_plain_solves(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("llama")
    states = all_of(decoder, words, varied())
    matrices = {state.tokens: state.moments[2].matrix() for state in states}
    convergence = states[-1].moments[2].convergence
    documents = [words(text)["input_ids"] for text in list(varied().documents(1))[:4]]
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
        turned = 1 - torch.cosine_similarity(one, other, dim=0)
        assert abs(turned.mean() - point.mean) < 1e-8
        assert abs(turned.max() - point.largest) < 1e-8
    # More text turns the solve less and less: that is what the rule relies on.
    assert convergence.curve[-1].mean < convergence.curve[0].mean / 2


def test_a_probe_among_the_keys_turns_nothing() -> None:
    chance = torch.Generator().manual_seed(0)
    keys = torch.randn(100, 20, dtype=torch.float64, generator=chance)
    probe = torch.randn(20, dtype=torch.float64, generator=chance)
    without = keys.T @ keys
    with_it = without + torch.outer(probe, probe)
    one, other = (torch.linalg.solve(matrix, probe) for matrix in (without, with_it))
    assert 1 - torch.cosine_similarity(one, other, dim=0) < 1e-14


@pytest.mark.usefixtures("small_blocks")
def test_it_stops_when_settled_and_only_then(decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("llama")
    to_the_end = all_of(decoder, words, varied())
    points = to_the_end[-1].moments[0].convergence.curve, to_the_end[-1].moments[2].convergence.curve
    worst = [max(one.mean, other.mean) for one, other in zip(*points, strict=True)]
    tolerance = worst[1] if worst[1] < worst[0] else worst[0]
    stop = next(point.tokens for point, mean in zip(points[0], worst, strict=True) if mean <= tolerance)
    states = all_of(decoder, words, varied(), tolerance=tolerance)
    assert states[-1].is_finished and states[-1].tokens == stop < to_the_end[-1].tokens
    assert states[-1].before_cut is None
    for state in states[:-1]:
        resumed = all_of(decoder, words, varied(), tolerance=tolerance, start=copy.deepcopy(state))[-1]
        assert resumed.tokens == stop
        assert_equal(resumed, states[-1])
    # What has settled can still be topped up, to the same bits.
    topped_up = all_of(decoder, words, varied(), start=going_on(states[-1]))[-1]
    assert_equal(topped_up, to_the_end[-1])


@pytest.mark.usefixtures("small_blocks")
def test_too_little_text_gives_no_point_and_never_settles(
    decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Four words have fewer directions than keys: C stays singular however often they come."""
    few = Corpus("few", "0", ["Paris Rome"] * 400)
    last = all_of(decoder_of("gpt2"), words, few, tolerance=1.0)[-1]
    assert last.documents == 400
    assert last.moments[0].convergence.curve == []
    assert last.moments[0].convergence.directions is None


@pytest.mark.usefixtures("small_blocks")
def test_how_many_tokens_it_will_be_is_told_from_those_so_far(
    decoder_of: Decoders, words: PreTrainedTokenizerBase, small_blocks: None
) -> None:
    """Forty documents are far from as many tokens as were asked for; half of them tell what all will be."""
    reports = list[Progress]()
    texts = corpus(40)
    *_, state = all_of(decoder_of("llama"), words, texts, max_tokens=10**6, report=reports.append)
    assert reports[0].total == 10**6
    halfway = next(one for one in reports if one.done > state.tokens / 2)
    assert halfway.total == pytest.approx(state.tokens, rel=0.2)


@pytest.mark.parametrize("max_tokens", [1, 7, 40, 41, 60])
def test_the_number_of_tokens_is_met_exactly(
    max_tokens: int, decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder, texts = decoder_of("llama"), corpus()
    last = all_of(decoder, words, texts, max_tokens=max_tokens)[-1]
    assert last.is_finished
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
    assert [state.documents for state in states] == [1]


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
    monkeypatch.setattr("retcon.engine.covariance.collect.READING_TOKENS", 30)
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
    with pytest.raises(InputError, match="out of range"):
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
        raise StopRequested

    with pytest.raises(StopRequested):
        all_of(decoder, words, corpus(), report=stop)
    assert_untouched(decoder.model)
