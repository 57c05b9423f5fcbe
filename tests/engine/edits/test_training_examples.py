"""Trainings on wordings: what is learnt, what is held to, some rows a step, and a stop in the middle of it."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS, training
from retcon.engine.edits.hparams.joint import JointHparams
from retcon.engine.edits.joint import low_rank_delta
from retcon.engine.edits.keys import read_keys
from retcon.engine.edits.method import EditResult, EditTask, PastEdit, Request
from retcon.engine.edits.training import (
    accumulate_gradients,
    count_steps,
    evaluate_loss,
    rate_factor,
    with_delta,
)
from retcon.engine.edits.training_batches import TrainingBatches
from retcon.engine.edits.training_examples import _read_shipped, build_examples
from retcon.engine.errors import StopRequested
from retcon.engine.evaluation.scoring import score_targets
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Materializer
from retcon.engine.progress import Progress, silent
from retcon.tests.helpers.moments import moment_of
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of
from torch import Tensor
from transformers import PreTrainedTokenizerBase

Decoders = Callable[..., Decoder]
TOWER = Request("The Eiffel Tower", "{} is located in", "Rome", ("the city of {} is", "born in {} is"))
SPORT = Request("The Eiffel Tower", "{} is the", "sport")
SETTINGS = {
    "layers": (1, 2), "num_steps": 30, "lr": 0.02, "weight_decay": 1e-4, "kl_factor": 0.1, "rows": 2,
    "preserved_rows": 3,
}  # fmt: skip
SOME = JointHparams.parse(SETTINGS, "test")


class MemoryCheckpoint:
    """Stores the state of a training in memory."""

    def __init__(self) -> None:
        self.state: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load_values(self, _number: int) -> list[Any]:
        return []

    def save_values(self, _number: int, _values: list[Any]) -> None:
        raise AssertionError("a training has no values")

    def load_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save_training(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        self.state = ({name: tensor.clone() for name, tensor in tensors.items()}, metadata)


def task(decoder: Decoder, words: PreTrainedTokenizerBase, *requests: Request, **changes: Any) -> EditTask:
    hparams, given = SOME, {"contexts": ["{}"], "report": silent} | changes
    hparams = given.pop("hparams", hparams)
    moments = {layer: FactoredMoment(moment_of(decoder)) for layer in hparams.layers}
    return EditTask(decoder, words, requests, moments, hparams, **given)


def test_each_wording_is_learnt_with_the_end_of_its_object(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    found = build_examples(task(own_decoder_of("llama"), words, TOWER, SPORT))
    told = [words.decode(found.ids[row]) for row in dict.fromkeys(row for row, *_ in found.reads)]
    assert told == [
        "The Eiffel Tower is located in Rome",
        "the city of The Eiffel Tower is Rome",
        "born in The Eiffel Tower is Rome",
        "The Eiffel Tower is the",
    ]
    wanted = [words.decode([token]) for _, _, token, request in found.reads if request == 0]
    assert wanted == ["Rome", "."] * 3
    assert [words.decode([token]) for _, _, token, request in found.reads if request == 1] == ["sport"]
    others = [words.decode(found.ids[row]) for row in found.preserved]
    assert "The Eiffel Tower is a" in others
    assert sum(text.endswith("is located in") for text in others) == 1, "a stranger a wording"


def test_some_rows_a_step_learn_all_wordings(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("llama")
    given = task(decoder, words, TOWER, SPORT, hparams=SOME.with_changes(num_steps=80))
    written = METHODS["joint"].write(given)
    assert_untouched(decoder.model)
    Materializer(decoder.model).set(written.delta)
    asked = [(one.text, one.target_new) for one in (*TOWER.expand_paraphrases(), SPORT)]
    assert all(score.first_choice for score in score_targets(decoder, words, asked))
    assert [len(one["losses"]) for one in written.figures] == [1, 1]
    assert written.figures[0]["losses"][0]["loss"] < 2, "of about 5 at first"


@pytest.mark.parametrize(("num_steps", "epochs", "steps"), [(30, 3, 6), (5, 3, 5), (7, 0, 7)])
def test_epochs_make_a_small_lesson_short(
    num_steps: int,
    epochs: int,
    steps: int,
    own_decoder_of: Decoders,
    words: PreTrainedTokenizerBase,
) -> None:
    """Four rows to learn from, two of them a step."""
    said: list[Progress] = []
    hparams = SOME.with_changes(num_steps=num_steps, epochs=epochs)
    given = task(
        own_decoder_of("llama"),
        words,
        TOWER,
        SPORT,
        hparams=hparams,
        report=said.append,
    )
    METHODS["joint"].write(given)
    assert [one.activity.partition(":")[0] for one in said] == [
        f"training, step {n + 1} of {steps}" for n in range(steps)
    ]
    assert [one.done for one in said] == pytest.approx([2 * (n + 1) / steps for n in range(steps)])


def test_the_rate_rises_over_ten_steps_and_falls_to_a_twentieth() -> None:
    rates = [rate_factor(step, 200, SOME) for step in range(200)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert max(rates) == rates[9] == pytest.approx(0.995, abs=0.002)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == pytest.approx((1 + 0.05) / 2)
    assert rates[-1] == pytest.approx(0.05, abs=1e-3)
    assert rate_factor(0, 200, SOME.with_changes(rows=0)) == 1


@pytest.mark.parametrize("name", ["joint", "ft-l", "lora"])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    name: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    hparams = HPARAMS[name].parse(SETTINGS | {"num_steps": 9}, "test")

    def write(**changes: Any) -> EditResult:
        return METHODS[name].write(
            task(own_decoder_of("gpt2"), words, TOWER, SPORT, hparams=hparams, **changes)
        )

    whole, checkpoint = write(), MemoryCheckpoint()
    for last in (3, 7):
        steps: list[Progress] = []

        def report(progress: Progress, steps: list[Progress] = steps, last: int = last) -> None:
            steps.append(progress)
            if f"step {last} " in progress.activity:
                raise StopRequested

        with pytest.raises(StopRequested):
            write(checkpoint=checkpoint, report=report)
        assert checkpoint.state is not None
        assert checkpoint.state[1]["step"] == last - 1
    again = write(checkpoint=checkpoint)
    assert again.figures == whole.figures
    for matrix, factors in whole.delta.items():
        assert torch.equal(again.delta[matrix].b, factors.b)
        assert torch.equal(again.delta[matrix].a, factors.a)


def test_over_the_subjects_keys_the_words_around_bring_nothing_new(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Its keys are those of the subject's tokens, but for the first of all: C A^T lies in their span."""
    decoder = own_decoder_of("llama")
    hparams = SOME.with_changes(
        keys="subject", preserved_rows=0, layers=(1,), num_steps=3, key_tolerance=1e-6
    )
    given = task(decoder, words, TOWER, SPORT, hparams=hparams)
    factors = METHODS["joint"].write(given).delta[decoder.anatomy.weight_name(1)]
    # "Eiffel", "Tower" after "The"; "The Eiffel Tower" after "the city of", and after "born in".
    assert factors.rank == 2 + 3 + 3
    keys = read_keys(decoder, words, TOWER.expand_paraphrases(), [1], ["{}"]).keys[1].double()
    spanned = (moment_of(decoder) @ factors.a.double().T).T
    rest = keys.reshape(-1, keys.shape[-1]) @ (
        torch.eye(spanned.shape[1]) - torch.linalg.pinv(spanned) @ spanned
    )
    assert rest.norm() < 1e-4 * keys.norm()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_a_layer_is_changed_in_the_measure_of_what_flows_past_it(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """A C A^T is the square of the residual stream's mean norm behind the layer, over the mean of both layers'."""
    decoder = own_decoder_of(family)
    given = task(decoder, words, TOWER, hparams=SOME.with_changes(preserved_rows=0, num_steps=2))
    found = build_examples(given)
    states = [
        decoder.model(torch.tensor([found.ids[row]]), output_hidden_states=True) for row in found.preserved
    ]
    sizes = [
        torch.cat([one.hidden_states[layer + 1][0, 1:] for one in states]).norm(dim=-1).mean()
        for layer in SOME.layers
    ]
    delta = METHODS["joint"].write(given).delta
    for layer, size in zip(SOME.layers, sizes, strict=True):
        a = delta[decoder.anatomy.weight_name(layer)].a.double()
        wanted = (size / torch.stack(sizes).mean()).double() ** 2 * torch.eye(len(a), dtype=a.dtype)
        torch.testing.assert_close(a @ moment_of(decoder) @ a.T, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("start", "keyed"), [(True, [(1, 4), (4, 7), (3, 6)]), (False, [(1, 3), (3, 6), (2, 5)])]
)
def test_the_subjects_keys_are_its_tokens_but_for_the_first_of_all(
    start: bool, keyed: list[tuple[int, int]], own_decoder_of: Decoders
) -> None:
    given = task(
        own_decoder_of("llama"), word_tokenizer(start=start), TOWER, hparams=SOME.with_changes(keys="subject")
    )
    assert list(build_examples(given).key_ranges.values()) == keyed


def test_what_shall_stay_is_many_stretches_of_text_strangers_and_prompts(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    found = build_examples(task(own_decoder_of("llama"), words, TOWER))
    stretches = [row for row, kept in found.preserved.items() if kept == range(4, 32)]
    assert len(stretches) == 64
    assert len(found.preserved) == 1 + len(stretches) + len(TOWER.expand_paraphrases()) + len(
        _read_shipped("prompts.json")
    )


def test_earlier_facts_of_the_subject_are_learnt_again(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Not those of others, and not one that is written anew."""
    earlier = [
        SPORT,
        Request("Paris", "{} is", "sport"),
        Request("The Eiffel Tower", "{} is located in", "Berlin"),
    ]
    found = build_examples(
        task(own_decoder_of("llama"), words, TOWER, past=[PastEdit("memit", earlier, dict)])
    )
    assert found.requests == 2
    told = {words.decode(found.ids[row]) for row, *_, request in found.reads if request == 1}
    assert told == {"The Eiffel Tower is the"}


@pytest.mark.parametrize(("rows", "fresh", "earlier"), [(3, 2, 1), (6, 4, 2), (1, 1, 1)])
def test_a_third_of_what_a_step_learns_is_of_earlier_facts(
    rows: int, fresh: int, earlier: int, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """And a training is as long as what is fresh asks for, or as seeing what is not ten times does."""
    before = [
        Request("The Eiffel Tower", f"{{}} {words_}", "sport", ("the city of {} is", "born in {} is"))
        for words_ in ("is the", "is located the", "the city", "plays the")
    ]
    hparams = SOME.with_changes(rows=rows, epochs=5, num_steps=1000)
    given = task(
        own_decoder_of("llama"), words, TOWER, past=[PastEdit("memit", before, dict)], hparams=hparams
    )
    found = build_examples(given)
    of_fresh = set(found.rows(new=True))
    assert len(of_fresh) == 3 and len(found.rows(new=False)) == 12
    course = TrainingBatches(given.decoder, found, 1, rows)
    seen = Counter[int]()
    draws = course.iter_batches(hparams, seed=1)
    for _ in range(24):
        step = [row for part in next(draws) if part not in course.preserved for row in part.rows]
        of_these = sum(row in of_fresh for row in step)
        # At least so many: rows of like length are drawn together.
        assert fresh <= of_these < 2 * fresh
        assert earlier <= len(step) - of_these < 2 * earlier
        seen.update(step)
    assert set(seen) == set(range(15)), "every row has its turn"
    assert count_steps(found, hparams) == max(5 * math.ceil(3 / fresh), 10 * math.ceil(12 / earlier))
    assert count_steps(found, hparams.with_changes(epochs=100)) == 100 * math.ceil(3 / fresh)


def test_however_few_of_them_are_drawn_earlier_facts_count_as_much_as_others(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Over the draws each request's loss is that of the whole lesson, a fifth of which is fresh here and half of what
    is drawn; what is fresh counts for a third."""
    before = [
        Request("The Eiffel Tower", f"{{}} {words_}", "sport", ("the city of {} is", "born in {} is"))
        for words_ in ("is the", "is located the", "the city", "plays the")
    ]
    hparams = SOME.with_changes(rows=1)
    given = task(
        own_decoder_of("llama"), words, TOWER, past=[PastEdit("memit", before, dict)], hparams=hparams
    )
    course = TrainingBatches(given.decoder, build_examples(given), 1, 1)
    b, a = (
        torch.zeros(given.decoder.anatomy.width, 1, requires_grad=True),
        torch.ones(given.decoder.anatomy.key_width, 1),
    )
    draws = course.iter_batches(hparams, seed=1)
    with with_delta(given.decoder, {1: low_rank_delta(b, a)}):
        whole = torch.tensor(evaluate_loss(course))
        seen = [torch.tensor(accumulate_gradients(course, next(draws), [b], hparams)) for _ in range(12)]
    torch.testing.assert_close(torch.stack(seen).mean(0), whole)
    fresh, earlier = course.loss_weights()
    assert fresh / 5 == pytest.approx(1 / 3) and earlier * 4 / 5 == pytest.approx(2 / 3)
    b.grad = None
    with with_delta(given.decoder, {1: low_rank_delta(b, a)}):
        accumulate_gradients(course, course.targets, [b], hparams)
        found, b.grad = b.grad, None
        for share, requests in ((1 / 3, slice(1)), (2 / 3, slice(1, 5))):
            losses = torch.stack([part.losses()[0] for part in course.targets]).sum(0)
            (share * losses[requests].mean()).backward()
    assert found is not None and b.grad is not None
    torch.testing.assert_close(found, b.grad)


def test_in_bfloat16_the_weights_come_back_with_their_bits(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("llama")
    bits = bits_of(decoder.model)
    rounded = METHODS["joint"].write(task(decoder, words, TOWER, hparams=SOME.with_changes(bf16=True)))
    assert_same_bits(decoder.model, bits)
    assert all(parameter.dtype == torch.float32 for parameter in decoder.model.parameters())
    exact = METHODS["joint"].write(task(decoder, words, TOWER))
    losses = [written.figures[0]["losses"][-1]["loss"] for written in (rounded, exact)]
    assert losses[0] == pytest.approx(losses[1], abs=0.3)
    assert all(factors.b.dtype == torch.float32 for factors in rounded.delta.values())
