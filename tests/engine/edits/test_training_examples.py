"""Training examples and their batches: targets, the preservation set, rehearsal, steps, and resuming."""

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS, training
from retcon.engine.edits.hparams.training import JointHparams
from retcon.engine.edits.joint import low_rank_delta
from retcon.engine.edits.keys import read_keys
from retcon.engine.edits.method import Checkpoint, EditResult, EditTask, PastEdit, Request
from retcon.engine.edits.training import (
    accumulate_gradients,
    count_steps,
    evaluate_loss,
    rate_factor,
    with_delta,
)
from retcon.engine.edits.training_batches import TrainingBatches
from retcon.engine.edits.training_examples import build_examples, read_shipped
from retcon.engine.errors import StopRequested
from retcon.engine.evaluation.scoring import score_targets
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Materializer
from retcon.engine.progress import Progress, silent
from retcon.tests.helpers.moments import moment_of
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of

Decoders = Callable[..., Decoder]
TOWER = Request("The Eiffel Tower", "{} is located in", "Rome", ("the city of {} is", "born in {} is"))
SPORT = Request("The Eiffel Tower", "{} is the", "sport")
SETTINGS = {
    "layers": (1, 2), "num_steps": 30, "lr": 0.02, "weight_decay": 1e-4, "kl_factor": 0.1, "rows": 2,
    "preserved_rows": 3,
}  # fmt: skip
JOINT = JointHparams.parse(SETTINGS, "test")


class MemoryCheckpoint(Checkpoint):
    """Stores the state of a training in memory."""

    def __init__(self) -> None:
        self.state: tuple[dict[str, Tensor], dict[str, Any]] | None = None

    def load_training(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        return self.state

    def save_training(self, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        self.state = ({name: tensor.clone() for name, tensor in tensors.items()}, metadata)


def build_task(
    decoder: Decoder, words: PreTrainedTokenizerBase, *requests: Request, **changes: Any
) -> EditTask:
    fields = {"contexts": ["{}"], "report": silent, "hparams": JOINT} | changes
    moments = {layer: FactoredMoment(moment_of(decoder)) for layer in fields["hparams"].layers}
    return EditTask(decoder, words, requests, moments, **fields)


def test_each_paraphrase_is_trained_with_its_end(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    examples = build_examples(build_task(own_decoder_of("llama"), words, TOWER, SPORT))
    texts = [words.decode(examples.ids[row]) for row in dict.fromkeys(row for row, *_ in examples.reads)]
    assert texts == [
        "The Eiffel Tower is located in Rome",
        "the city of The Eiffel Tower is Rome",
        "born in The Eiffel Tower is Rome",
        "The Eiffel Tower is the",
    ]
    wanted = [words.decode([token]) for _, _, token, request in examples.reads if request == 0]
    assert wanted == ["Rome", "."] * 3
    assert [words.decode([token]) for _, _, token, request in examples.reads if request == 1] == ["sport"]
    others = [words.decode(examples.ids[row]) for row in examples.preserved]
    assert "The Eiffel Tower is a" in others
    assert sum(text.endswith("is located in") for text in others) == 1, "one unrelated subject per template"


def test_prompt_last_predicts_all_tokens_at_the_end(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """As EasyEdit's FT does: the prompt alone is the row, and its last token predicts each target token."""
    hparams = HPARAMS["ft-l"].parse({"layers": (1,), "objective_optimization": "prompt_last"}, "test")
    request = Request("Paris", "{} is located in", "Rome Italy")
    examples = build_examples(build_task(own_decoder_of("llama"), words, request, hparams=hparams))
    end = len(words("Paris is located in")["input_ids"]) - 1
    tokens = words("Rome Italy", add_special_tokens=False)["input_ids"]
    assert examples.reads == [(0, end, token, 0) for token in tokens]
    assert len(examples.ids[0]) == end + 1


def test_training_on_some_rows_learns_all_paraphrases(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("llama")
    task = build_task(decoder, words, TOWER, SPORT, hparams=JOINT.with_changes(num_steps=80))
    result = METHODS["joint"].write(task)
    assert_untouched(decoder.model)
    Materializer(decoder.model).set(result.delta)
    asked = [(one.text, one.target_new) for one in (*TOWER.expand_paraphrases(), SPORT)]
    assert all(score.first_choice for score in score_targets(decoder, words, asked))
    assert [len(one["losses"]) for one in result.figures] == [1, 1]
    assert result.figures[0]["losses"][0]["loss"] < 2, "about 5 at first"


@pytest.mark.parametrize(("num_steps", "epochs", "steps"), [(30, 3, 6), (5, 3, 5), (7, 0, 7)])
def test_epochs_limit_the_steps_of_few_rows(
    num_steps: int,
    epochs: int,
    steps: int,
    own_decoder_of: Decoders,
    words: PreTrainedTokenizerBase,
) -> None:
    """Four rows with targets, two per step."""
    reports: list[Progress] = []
    hparams = JOINT.with_changes(num_steps=num_steps, epochs=epochs)
    task = build_task(
        own_decoder_of("llama"),
        words,
        TOWER,
        SPORT,
        hparams=hparams,
        report=reports.append,
    )
    METHODS["joint"].write(task)
    assert {one.activity for one in reports} == {"training"}
    assert [one.detail.partition(",")[0] for one in reports] == [
        f"step {n + 1} of {steps}" for n in range(steps)
    ]
    assert [one.done for one in reports] == pytest.approx([2 * (n + 1) / steps for n in range(steps)])


def test_learning_rate_warms_up_and_falls() -> None:
    rates = [rate_factor(step, 200, JOINT) for step in range(200)]
    assert rates[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-3)
    assert max(rates) == rates[9] == pytest.approx(0.995, abs=0.002)
    assert rates[9:] == sorted(rates[9:], reverse=True)
    assert rates[100] == pytest.approx((1 + 0.05) / 2)
    assert rates[-1] == pytest.approx(0.05, abs=1e-3)
    assert rate_factor(0, 200, JOINT.with_changes(rows=0)) == 1


@pytest.mark.parametrize("name", ["joint", "ft-l", "lora"])
def test_stopped_training_resumes_to_the_same_bits(
    name: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "CHECKPOINT_SECONDS", 0.0)
    hparams = HPARAMS[name].parse(SETTINGS | {"num_steps": 9}, "test")

    def write(**changes: Any) -> EditResult:
        return METHODS[name].write(
            build_task(own_decoder_of("gpt2"), words, TOWER, SPORT, hparams=hparams, **changes)
        )

    whole, checkpoint = write(), MemoryCheckpoint()
    for last in (3, 7):
        steps: list[Progress] = []

        def report(progress: Progress, steps: list[Progress] = steps, last: int = last) -> None:
            steps.append(progress)
            if f"step {last} " in progress.detail:
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


def test_subject_keys_ignore_the_words_around(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """The keys are those of the subject's tokens without a text's first token: C A^T lies in their span."""
    decoder = own_decoder_of("llama")
    hparams = JOINT.with_changes(
        keys="subject", preserved_rows=0, layers=(1,), num_steps=3, key_tolerance=1e-6
    )
    task = build_task(decoder, words, TOWER, SPORT, hparams=hparams)
    factors = METHODS["joint"].write(task).delta[decoder.anatomy.weight_name(1)]
    # "Eiffel", "Tower" after "The"; "The Eiffel Tower" after "the city of", and after "born in".
    assert factors.rank == 2 + 3 + 3
    keys = read_keys(decoder, words, TOWER.expand_paraphrases(), [1], ["{}"]).keys[1].double()
    spanned = (moment_of(decoder) @ factors.a.double().T).T
    rest = keys.reshape(-1, keys.shape[-1]) @ (
        torch.eye(spanned.shape[1]) - torch.linalg.pinv(spanned) @ spanned
    )
    assert rest.norm() < 1e-4 * keys.norm()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2"])
def test_updates_scale_with_the_residual_stream(
    family: str, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """A C A^T = (mean residual-stream norm after the layer / its mean over both layers)^2."""
    decoder = own_decoder_of(family)
    task = build_task(decoder, words, TOWER, hparams=JOINT.with_changes(preserved_rows=0, num_steps=2))
    examples = build_examples(task)
    states = [
        decoder.model(torch.tensor([examples.ids[row]]), output_hidden_states=True)
        for row in examples.preserved
    ]
    norms = [
        torch.cat([one.hidden_states[layer + 1][0, 1:] for one in states]).norm(dim=-1).mean()
        for layer in JOINT.layers
    ]
    delta = METHODS["joint"].write(task).delta
    for layer, size in zip(JOINT.layers, norms, strict=True):
        a = delta[decoder.anatomy.weight_name(layer)].a.double()
        wanted = (size / torch.stack(norms).mean()).double() ** 2 * torch.eye(len(a), dtype=a.dtype)
        torch.testing.assert_close(a @ moment_of(decoder) @ a.T, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("start", "keyed"), [(True, [(1, 4), (4, 7), (3, 6)]), (False, [(1, 3), (3, 6), (2, 5)])]
)
def test_subject_keys_skip_the_first_token_of_a_text(
    start: bool, keyed: list[tuple[int, int]], own_decoder_of: Decoders
) -> None:
    task = build_task(
        own_decoder_of("llama"),
        word_tokenizer(start=start),
        TOWER,
        hparams=JOINT.with_changes(keys="subject"),
    )
    assert list(build_examples(task).key_ranges.values()) == keyed


def test_preservation_set_has_texts_subjects_and_prompts(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    examples = build_examples(build_task(own_decoder_of("llama"), words, TOWER))
    passages = [row for row, positions in examples.preserved.items() if positions == range(4, 32)]
    assert len(passages) == 64
    assert len(examples.preserved) == 1 + len(passages) + len(TOWER.expand_paraphrases()) + len(
        read_shipped("prompts.json")
    )


def test_earlier_facts_of_the_subject_are_rehearsed(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """Facts of other subjects and rewritten facts are not."""
    past = [
        SPORT,
        Request("Paris", "{} is", "sport"),
        Request("The Eiffel Tower", "{} is located in", "Berlin"),
    ]
    examples = build_examples(
        build_task(own_decoder_of("llama"), words, TOWER, past=[PastEdit("memit", past, dict)])
    )
    assert examples.requests == 2
    texts = {words.decode(examples.ids[row]) for row, *_, request in examples.reads if request == 1}
    assert texts == {"The Eiffel Tower is the"}


@pytest.mark.parametrize(("rows", "new", "rehearsed"), [(3, 2, 1), (6, 4, 2), (1, 1, 1)])
def test_a_third_of_a_step_is_rehearsal(
    rows: int, new: int, rehearsed: int, own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    """The number of steps follows from the epochs over new rows, or from ten epochs over rehearsed rows."""
    before = [
        Request("The Eiffel Tower", f"{{}} {relation}", "sport", ("the city of {} is", "born in {} is"))
        for relation in ("is the", "is located the", "the city", "plays the")
    ]
    hparams = JOINT.with_changes(rows=rows, epochs=5, num_steps=1000)
    task = build_task(
        own_decoder_of("llama"), words, TOWER, past=[PastEdit("memit", before, dict)], hparams=hparams
    )
    examples = build_examples(task)
    new_rows = set(examples.rows(new=True))
    assert len(new_rows) == 3 and len(examples.rows(new=False)) == 12
    batches = TrainingBatches(task.decoder, examples, 1, rows)
    drawn = Counter[int]()
    steps = batches.iter_batches(hparams, seed=1)
    for _ in range(24):
        step = [row for part in next(steps) if part not in batches.preserved for row in part.rows]
        new_count = sum(row in new_rows for row in step)
        # At least this many, because rows of similar length are drawn together.
        assert new <= new_count < 2 * new
        assert rehearsed <= len(step) - new_count < 2 * rehearsed
        drawn.update(step)
    assert set(drawn) == set(range(15)), "every row is drawn"
    assert count_steps(examples, hparams) == max(5 * math.ceil(3 / new), 10 * math.ceil(12 / rehearsed))
    assert count_steps(examples, hparams.with_changes(epochs=100)) == 100 * math.ceil(3 / new)


def test_drawn_rows_estimate_the_whole_loss(own_decoder_of: Decoders, words: PreTrainedTokenizerBase) -> None:
    """The mean over the steps is the loss of all rows. A fifth of the requests is new, and has a third of the loss."""
    before = [
        Request("The Eiffel Tower", f"{{}} {relation}", "sport", ("the city of {} is", "born in {} is"))
        for relation in ("is the", "is located the", "the city", "plays the")
    ]
    hparams = JOINT.with_changes(rows=1)
    task = build_task(
        own_decoder_of("llama"), words, TOWER, past=[PastEdit("memit", before, dict)], hparams=hparams
    )
    batches = TrainingBatches(task.decoder, build_examples(task), 1, 1)
    b, a = (
        torch.zeros(task.decoder.anatomy.width, 1, requires_grad=True),
        torch.ones(task.decoder.anatomy.key_width, 1),
    )
    steps = batches.iter_batches(hparams, seed=1)
    with with_delta(task.decoder, {1: low_rank_delta(b, a)}):
        whole = torch.tensor(evaluate_loss(batches))
        estimates = [
            torch.tensor(accumulate_gradients(batches, next(steps), [b], hparams)) for _ in range(12)
        ]
    torch.testing.assert_close(torch.stack(estimates).mean(0), whole)
    new, rehearsed = batches.loss_weights()
    assert new / 5 == pytest.approx(1 / 3) and rehearsed * 4 / 5 == pytest.approx(2 / 3)
    b.grad = None
    with with_delta(task.decoder, {1: low_rank_delta(b, a)}):
        accumulate_gradients(batches, batches.targets, [b], hparams)
        gradient, b.grad = b.grad, None
        for share, requests in ((1 / 3, slice(1)), (2 / 3, slice(1, 5))):
            losses = torch.stack([part.losses()[0] for part in batches.targets]).sum(0)
            (share * losses[requests].mean()).backward()
    assert gradient is not None and b.grad is not None
    torch.testing.assert_close(gradient, b.grad)


def test_bfloat16_passes_restore_the_weights(
    own_decoder_of: Decoders, words: PreTrainedTokenizerBase
) -> None:
    decoder = own_decoder_of("llama")
    bits = bits_of(decoder.model)
    rounded = METHODS["joint"].write(build_task(decoder, words, TOWER, hparams=JOINT.with_changes(bf16=True)))
    assert_same_bits(decoder.model, bits)
    assert all(parameter.dtype == torch.float32 for parameter in decoder.model.parameters())
    exact = METHODS["joint"].write(build_task(decoder, words, TOWER))
    losses = [result.figures[0]["losses"][-1]["loss"] for result in (rounded, exact)]
    assert losses[0] == pytest.approx(losses[1], abs=0.3)
    assert all(factors.b.dtype == torch.float32 for factors in rounded.delta.values())
