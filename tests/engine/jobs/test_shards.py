"""Shards and workers without a Ray: the order of shards, and the checks of a worker's model."""

import dataclasses
import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.collect import read_block
from retcon.engine.errors import InputError
from retcon.engine.jobs.devices import parse_ray_device
from retcon.engine.jobs.runs.on_ray.shards import Shard, ShardSource
from retcon.engine.jobs.runs.on_ray.worker import Weights, Worker, versions
from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.loading import fingerprint, hash_parameters, load_model
from retcon.engine.model.memory import Budget
from retcon.engine.tracing.corruption import NoiseCorruption
from retcon.engine.tracing.noise import gaussian
from retcon.engine.tracing.trace import SkippedPrompt, TraceRequest, TraceSettings, split_into_batches, trace
from retcon.store.exchange.covariance import unpack_triangle


def shards(count: int) -> ShardSource:
    return ShardSource(
        (Shard(number, "read", (), 1, f"block {number}") for number in range(5, 5 + count)), window=3
    )


def test_shards_stay_within_the_window() -> None:
    source = shards(5)
    taken = [source.take() for _ in range(4)]
    assert [shard and shard.number for shard in taken] == [5, 6, 7, None] and not source.exhausted
    del source.in_progress[6]
    assert source.take() is None, "the first shard is unfinished"
    del source.in_progress[5]
    assert [shard and shard.number for shard in (source.take(), source.take(), source.take())] == [8, 9, None]
    assert not source.exhausted, "the end of the shards is not reached yet"
    del source.in_progress[7]
    assert source.take() is None and source.exhausted and set(source.in_progress) == {8, 9}


def weights(folder: Path) -> Weights:
    """The tiny model as the catalog describes it."""
    model = load_model(folder, "cpu")
    base = fingerprint(hash_parameters(model))
    anatomy = asdict(find_anatomy(model))
    return Weights("tiny", str(folder), False, anatomy, base, {}, base, "cpu", 1, versions())


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_worker_reads_the_same_sums(tiny_folder: Path) -> None:
    torch.set_num_threads(1)
    worker = Worker()
    worker.load(weights(tiny_folder), 100)
    rows = [[1, 5, 9, 33], [], [1, 7]]
    triangles, middles = worker.read(rows, [0, 2], True)
    model = load_model(tiny_folder, "cpu")
    here = read_block(Decoder(model, find_anatomy(model)), rows, [0, 2])
    for layer in (0, 2):
        total = torch.from_numpy(unpack_triangle(triangles[layer], len(here.sums[layer])))
        assert torch.equal(total.triu(), here.sums[layer].triu()) and total.dtype == torch.float32
        assert all(
            torch.equal(torch.tensor(there), keys)
            for there, keys in zip(middles[layer], here.middles[layer], strict=True)
        )
    assert worker.read(rows, [0], False)[1] == {}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"folder": "/nowhere/tiny"}, "does not have /nowhere/tiny"),
        ({"base": "0" * 64}, "expected 000000000000"),
        ({"fingerprint": "1" * 64}, "expected 111111111111"),
        ({"versions": ("9.9", "9.9")}, "Install the same versions on all nodes"),
    ],
)
@pytest.mark.usefixtures("one_thread")
def test_worker_refuses_other_weights(tiny_folder: Path, changes: dict[str, object], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Worker().load(dataclasses.replace(weights(tiny_folder), **changes), 100)


def test_batches_traced_alone_give_same_bits(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("llama")
    questions = [
        TraceRequest(prompt.format(subject), subject)
        for prompt in ("The {} is located in the city of", "{} was born in")
        for subject in ("Tower", "Paris", "Rome", "France")
    ]
    questions.insert(3, TraceRequest("The city is", "not in it"))
    settings = TraceSettings(NoiseCorruption(gaussian(0.3), 3))
    budget = 4 * 3 * 7 * 2
    whole = dict(trace(decoder, words, questions, settings, Budget(decoder.device, budget)))
    skipped, shared = split_into_batches(words, questions, settings, decoder.layers, budget)
    assert set(skipped) == {3} and isinstance(whole[3], SkippedPrompt)
    assert sorted(number for batch in shared for number in batch) == [0, 1, 2, 4, 5, 6, 7, 8]
    assert len(shared) > 2 and max(map(len, shared)) > 1
    for batch in reversed(shared):
        asked = [questions[number] for number in batch]
        alone = dict(trace(decoder, words, asked, settings, Budget(decoder.device, budget)))
        assert [alone[place] for place in range(len(batch))] == [whole[number] for number in batch]


def test_missing_ray_names_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(InputError, match=r"--on ray needs the extra 'ray': pip install 'retcon-lm\[ray\]'"):
        parse_ray_device("ray")
