"""Each metric of an evaluation against its definition, computed by a loop over plain forward passes."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from transformers import PreTrainedTokenizerBase

from retcon.engine.errors import InputError
from retcon.engine.evaluation.cases import Case, CaseResult, Neighbor, PortabilityQuestion, hash_cases
from retcon.engine.evaluation.matching import begins_with, contains_phrase
from retcon.engine.evaluation.metrics import METRICS
from retcon.engine.evaluation.run import EvaluationSettings, TextSampling, evaluate, evaluate_blocks
from retcon.engine.evaluation.scoring import Score, score_targets
from retcon.engine.model.decoder import Decoder
from retcon.engine.progress import Progress
from retcon.tests.helpers.plain_evaluation import (
    FAMILIES,
    cases,
    forward,
    plain_completion,
    plain_score,
    shifted,
)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", [False, True])
def test_scores_match_plain_forward_passes(
    family: str,
    start: bool,
    decoder_of: Callable[[str], Decoder],
    words: PreTrainedTokenizerBase,
    words_after_start: PreTrainedTokenizerBase,
) -> None:
    decoder, tokenizer = decoder_of(family), words_after_start if start else words
    pairs = [(case.prompt, case.target_new) for case in cases(12)]
    first_choice = plain_completion(decoder, tokenizer, tokenizer(pairs[0][0])["input_ids"], 2)
    pairs.append((pairs[0][0], first_choice))
    for (prompt, target), score in zip(pairs, score_targets(decoder, tokenizer, pairs), strict=True):
        nll, first = plain_score(decoder, tokenizer, prompt, target)
        assert score.nll == pytest.approx(nll, abs=1e-4)
        assert (score.first_choice, score.token_accuracy) == (
            all(first),
            pytest.approx(sum(first) / len(first)),
        )
    assert score.first_choice and score.token_accuracy == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_case_metrics_match_their_definitions(
    family: str, decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, at_base = shifted(decoder_of(family))
    nine = cases(9)
    (results,) = evaluate_blocks(decoder, words, nine, EvaluationSettings(4, at_base))
    for case, result in zip(nine, results, strict=True):
        metrics = result.metrics()
        expected = plain_metrics(decoder_of(family), decoder, words, case)
        assert metrics == pytest.approx(expected, abs=2e-5), case
        assert set(metrics) <= set(METRICS)


def plain_metrics(
    base: Decoder, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, case: Case
) -> dict[str, float]:
    """The metrics of a case by their definitions, one prompt after another."""
    metrics: dict[str, float] = {}

    def score(prompt: str, target: str) -> tuple[float, list[bool]]:
        return plain_score(decoder, tokenizer, prompt, target)

    def complete(prompt: str) -> str:
        return plain_completion(decoder, tokenizer, tokenizer(prompt)["input_ids"], 4)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    for name, prompts in (("E", [case.prompt]), ("P", list(case.eval_paraphrases))):
        if not prompts:
            continue
        new = [score(prompt, case.target_new) for prompt in prompts]
        metrics[f"{name}A"] = mean([float(all(first)) for _, first in new])
        metrics[f"T{name}"] = mean([mean([float(one) for one in first]) for _, first in new])
        metrics[f"F{name}"] = mean(
            [float(begins_with(complete(prompt), case.target_new)) for prompt in prompts]
        )
        if case.target_true:
            true = [score(prompt, case.target_true) for prompt in prompts]
            pairs = list(zip(new, true, strict=True))
            metrics[f"{name}S"] = mean([float(t[0] > n[0]) for n, t in pairs])
            metrics[f"{name}M"] = mean([math.exp(-n[0]) - math.exp(-t[0]) for n, t in pairs])
    if case.neighbors:
        near = [(score(n.prompt, case.target_new), score(n.prompt, n.true)) for n in case.neighbors]
        metrics["NS"] = mean([float(t[0] < n[0]) for n, t in near])
        metrics["NM"] = mean([math.exp(-t[0]) - math.exp(-n[0]) for n, t in near])
        metrics["NA"] = mean([float(all(t[1])) for _, t in near])
        metrics["TN"] = mean([mean([float(one) for one in t[1]]) for _, t in near])
        metrics["FN"] = mean([float(begins_with(complete(n.prompt), n.true)) for n in case.neighbors])
        apart = []
        for neighbor in case.neighbors:
            ids = tokenizer(neighbor.prompt)["input_ids"]
            p, q = forward(base, ids)[-1], forward(decoder, ids)[-1]
            apart.append(sum((p[i].exp() * (p[i] - q[i])).item() for i in range(len(p))))
        metrics["KN"] = mean(apart)
    if case.portability:
        hops = [score(question.prompt, question.answers[0])[1] for question in case.portability]
        metrics["HA"] = mean([float(all(first)) for first in hops])
        metrics["TH"] = mean([mean([float(one) for one in first]) for first in hops])
        replies = [(complete(question.prompt), question.answers) for question in case.portability]
        metrics["FH"] = mean(
            [float(any(contains_phrase(text, one) for one in answers)) for text, answers in replies]
        )
    if case.negations:
        metrics["XA"] = mean([float(all(score(prompt, case.target_new)[1])) for prompt in case.negations])
        metrics["FX"] = mean(
            [float(begins_with(complete(prompt), case.target_new)) for prompt in case.negations]
        )
    return metrics


def test_correct_completions_score_one(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    """If the targets are the model's completions, every success metric is 1."""
    decoder = decoder_of("llama")

    def first_word(prompt: str) -> str:
        return plain_completion(decoder, words, words(prompt)["input_ids"], 1)

    prompt, near, hop, denied = "The city is", "Berlin plays", "Camry was born in", "Tower plays"
    prompts = [text for text in (prompt, near, hop, denied) if first_word(text).strip()]
    assert len(prompts) == 4
    case = Case(
        prompt,
        first_word(prompt),
        "football",
        (prompt,),
        (Neighbor(near, first_word(near)),),
        negations=(prompt,),
        portability=(PortabilityQuestion(hop, ("football", first_word(hop))),),
    )
    metrics = evaluate(decoder, words, [case], 1)[0].metrics()
    for name in ("ES", "PS", "EA", "PA", "NA", "TE", "TP", "TN", "FE", "FP", "FN", "FH", "XA", "FX"):
        assert metrics[name] == 1, name
    assert metrics["HA"] == float(first_word(hop) == "football")


def test_batches_do_not_change_the_numbers(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, many = decoder_of("llama"), cases(37)
    reports: list[Progress] = []
    together = evaluate(decoder, words, many, 3, reports.append)
    assert len(together) == len(many)
    for case, result in zip(many, together, strict=True):
        (alone,) = evaluate(decoder, words, [case], 3)
        assert result.metrics() == pytest.approx(alone.metrics(), abs=1e-5)
        assert result.completion == alone.completion
    assert [one.done for one in reports] == sorted(one.done for one in reports)
    assert reports[-1].done == reports[-1].total == 37


def test_resuming_at_a_block_gives_the_same_results(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, at_base = shifted(decoder_of("llama"))
    many, settings = cases(20), EvaluationSettings(3, at_base, TextSampling(7))
    whole = [one.as_dict() for block in evaluate_blocks(decoder, words, many, settings) for one in block]
    rest = evaluate_blocks(decoder, words, many, settings, start=16)
    assert [one.as_dict() for block in rest for one in block] == whole[16:]


def test_metrics_without_generation(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    metrics = evaluate(decoder_of("llama"), words, cases(6), max_new_tokens=0)[5].metrics()
    assert not {"FE", "FP", "FN", "FH", "FX", "FC", "KN", "GE"} & set(metrics)
    assert {"EA", "XA", "HA"} <= set(metrics)


def test_empty_target_is_refused(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError, match="tokenizes to nothing"):
        evaluate(decoder_of("llama"), words, [Case("The city is", " ")])


def test_case_metrics_by_hand() -> None:
    """Means within a case, signs, and the metrics that are missing if a case has no such prompts."""
    hit, miss = Score(math.log(2), True, 1.0, True), Score(math.log(4), False, 0.5, True)
    case = Case("p", "Rome", "Paris", ("a", "b"), (Neighbor("n", "Oslo"),))
    result = CaseResult(case, hit, miss, [hit, miss], [miss, hit], [hit], [miss], [], [])
    expected = {"ES": 1, "EM": 0.25, "EA": 1, "TE": 1, "PS": 0.5, "PM": 0, "PA": 0.5, "TP": 0.75, "NS": 0, "NM": -0.25,
              "NA": 0, "TN": 0.5}  # fmt: skip
    assert result.metrics() == pytest.approx(expected)
    equal = CaseResult(Case("p", "Rome", "Paris"), hit, hit, [], [], [], [], [], [])
    assert equal.metrics() == pytest.approx({"ES": 0, "EM": 0, "EA": 1, "TE": 1})


def test_hash_cases_depends_on_every_field() -> None:
    case = cases(1)[0]
    others = [replace(case, target_true="x"), replace(case, references=()), replace(case, negations=("x",))]
    assert len({hash_cases([one]) for one in (case, *others)}) == 4
    assert hash_cases([case]) == hash_cases(cases(1))
    stored = CaseResult(case, Score(1.0, False, 0.0, False), None, [], [], [], [], [], []).as_dict()
    assert stored["new"] == {"nll": 1.0, "first_choice": False, "token_accuracy": 0.0}
    assert stored["case"]["references"] == 2, "the record holds the number of texts"
