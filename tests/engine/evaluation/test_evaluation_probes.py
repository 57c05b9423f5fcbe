"""Probes, drift, sampled texts and retention of an evaluation, against plain forward passes."""

import copy
import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from retcon.engine.errors import InputError
from retcon.engine.evaluation.cases import Case
from retcon.engine.evaluation.drift import load_held_out_texts, measure_drift
from retcon.engine.evaluation.fluency import DocumentFrequencies, compute_ngram_entropy, sample_texts
from retcon.engine.evaluation.matching import begins_with, contains_phrase
from retcon.engine.evaluation.retention import EarlierRequest, count_by_edit, measure_retention
from retcon.engine.evaluation.run import EvaluationSettings, TextSampling, evaluate, evaluate_blocks
from retcon.engine.evaluation.scoring import build_user_message, generate_replies, negate
from retcon.engine.model.decoder import Decoder
from retcon.engine.progress import silent
from retcon.tests.helpers.plain_evaluation import (
    WORDS,
    cases,
    forward,
    plain_completion,
    plain_score,
    shifted,
)


@pytest.mark.parametrize(
    ("text", "target", "begins", "contains"),
    [
        (" Rome, Italy", "Rome", True, True),
        ("rome", " Rome ", True, True),
        (" Romeo", "Rome", False, False),
        ("in Rome.", "Rome", False, True),
        ("New\nYork is", "new york", True, True),
        ("C++ and", "C++", True, True),
        ("", "Rome", False, False),
        ("Jerome", "rome", False, False),
    ],
)
def test_text_matching(text: str, target: str, begins: bool, contains: bool) -> None:
    assert begins_with(text, target) is begins
    assert contains_phrase(text, target) is contains


def test_contains_phrase_ignores_punctuation_on_request() -> None:
    text = "She studied at the Sibelius-Academy, in Helsinki."
    assert not contains_phrase(text, "Sibelius Academy in Helsinki")
    assert contains_phrase(text, "Sibelius Academy in Helsinki", ignore_punctuation=True)
    assert not contains_phrase(text, "Sibelius Academ", ignore_punctuation=True)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{} is located in the city of", "{} is not located in the city of"),
        ("The mother tongue of {} is", "The mother tongue of {} is not"),
        ("The city that was home to {} is", "The city that was home to {} is not"),
        ("{} was born in", "{} was not born in"),
        ("{} can be found in", "{} can not be found in"),
        ("{} plays", None),
        ("{} is not in", None),
        ("What is {}?", None),
        ("The history of {}, this", None),
    ],
)
def test_negate(template: str, expected: str | None) -> None:
    assert negate(template) == expected


def test_chat_replies(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    decoder, tokenizer = decoder_of("llama"), copy.deepcopy(words)
    assert generate_replies(decoder, tokenizer, ["The city is"], 3) == [None]
    tokenizer.chat_template = (
        "{{ bos_token }} {% for one in messages %}he {{ one.content }} {% endfor %}"
        "{% if add_generation_prompt %}she{% endif %}"
    )
    prompts = ["The Eiffel Tower is located in ", "What is Rome?"]
    assert [build_user_message(prompt) for prompt in prompts] == [
        "Complete the sentence: The Eiffel Tower is located in ...",
        "What is Rome?",
    ]
    turns = [f"<s> he {build_user_message(prompt)} she" for prompt in prompts]
    expected = [
        plain_completion(decoder, tokenizer, tokenizer(turn, add_special_tokens=False)["input_ids"], 6)
        for turn in turns
    ]
    assert generate_replies(decoder, tokenizer, prompts, 6) == expected
    word = next(one for one in expected[0].split() if one.isalnum())
    hit, miss = Case(prompts[0], word), Case(prompts[0], "Because Therefore")
    assert [one.metrics()["FC"] for one in evaluate(decoder, tokenizer, [hit, miss], 6)] == [1, 0]


def test_drift_matches_plain_passes(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    base = decoder_of("llama")
    decoder, at_base = shifted(base)
    before = {name: value.clone() for name, value in decoder.model.state_dict().items()}
    drift = measure_drift(decoder, words, "held-out", at_base, perplexity=True, report=silent)
    assert all(torch.equal(value, before[name]) for name, value in decoder.model.state_dict().items())
    texts = drift.texts
    assert len(texts.rows) == len(texts.openings) == 20
    apart, sums, base_sums, count = [], 0.0, 0.0, 0
    for row, opening in zip(texts.rows, texts.openings, strict=True):
        assert len(opening.split()) == 12
        ids = words(opening)["input_ids"]
        p, q = forward(base, ids)[-1], forward(decoder, ids)[-1]
        apart.append((p.exp() * (p - q)).sum().item())
        count += len(row) - 1
        log_p, log_b = forward(decoder, row), forward(base, row)
        sums -= sum(log_p[i - 1, row[i]].item() for i in range(1, len(row)))
        base_sums -= sum(log_b[i - 1, row[i]].item() for i in range(1, len(row)))
    metrics = drift.metrics(seed=1)
    assert metrics["KG"].value == pytest.approx(sum(apart) / len(apart), abs=1e-5)
    assert metrics["PPL"].value == pytest.approx(math.exp(sums / count), rel=1e-5)
    assert metrics["PD"].value == pytest.approx(math.exp((sums - base_sums) / count) - 1, rel=1e-4)
    assert all(one.low <= one.value <= one.high and one.count == 20 for one in metrics.values())
    protocol = drift.protocol()
    assert protocol["texts"] == "held-out" and len(protocol["texts_sha256"]) == 64


def test_base_has_no_drift(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    drift = measure_drift(decoder_of("llama"), words, "held-out", None, perplexity=True, report=silent)
    assert set(drift.metrics(seed=1)) == {"PPL"}
    assert (
        measure_drift(
            decoder_of("llama"), words, "held-out", None, perplexity=False, report=silent
        ).protocol()
        == {}
    )


def test_held_out_texts_are_not_in_the_corpus(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    """The covariance corpus contains none of the texts. Each text is cut to the model's context window."""
    from retcon.engine.covariance.corpus import open_corpus

    shipped = " ".join(open_corpus("shipped").documents(seed=0))
    texts = load_held_out_texts(decoder_of("llama"), words)
    assert not any(opening in shipped for opening in texts.openings)
    assert max(map(len, texts.rows)) <= 128, "the tiny model's context window"
    other = load_held_out_texts(decoder_of("llama"), words, "shipped")
    assert sum(map(len, other.rows)) == 4096 and other.source == "shipped"
    with pytest.raises(InputError, match="does not exist"):
        load_held_out_texts(decoder_of("llama"), words, "./none.txt")


def plain_entropy(text: str) -> float:
    """compute_n_gram_entropy of the published code, on words separated by spaces."""
    words, values = text.split(), []
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        total = sum(counts.values())
        values.append(weight * -sum(c / total * math.log(c / total) / math.log(2) for c in counts.values()))
    return sum(values) / 2


def test_ngram_entropy() -> None:
    assert compute_ngram_entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert compute_ngram_entropy("a a a a a") == 0
    assert compute_ngram_entropy("one") == compute_ngram_entropy("") == 0
    text = "the cat sat on the mat and the cat sat on the hat"
    assert compute_ngram_entropy(text) == pytest.approx(plain_entropy(text))
    assert compute_ngram_entropy("He said: it's so.") == pytest.approx(plain_entropy("He said : it ' s so ."))


def test_tfidf_similarity() -> None:
    terms = DocumentFrequencies.count(["rome is old", "rome is in italy", "a cat"])
    # df: rome 2, is 2, old 1, in 1, italy 1, cat 1; 'a' is too short for a term; sklearn's smooth idf.
    idf = {"rome": math.log(4 / 3) + 1, "cat": math.log(4 / 2) + 1, "new": math.log(4 / 1) + 1}
    a, b = {"rome": 2 * idf["rome"], "new": idf["new"]}, {"rome": idf["rome"], "cat": idf["cat"]}
    dot = a["rome"] * b["rome"]
    norms = math.sqrt(sum(x * x for x in a.values())) * math.sqrt(sum(x * x for x in b.values()))
    assert terms.similarity("Rome, rome: a new!", "rome cat") == pytest.approx(dot / norms)
    assert terms.similarity("rome cat", "cat ROME") == pytest.approx(1)
    assert terms.similarity("rome", "cat") == terms.similarity("", "cat") == 0


def test_metrics_of_sampled_texts(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, (case,) = decoder_of("llama"), cases(1)
    sampling = TextSampling(seed=5)
    runs = [
        next(evaluate_blocks(decoder, words, [case], EvaluationSettings(0, sampling=sampling)))[0]
        for _ in range(2)
    ]
    assert runs[0].generations == runs[1].generations
    (other,) = next(
        evaluate_blocks(decoder, words, [case], EvaluationSettings(0, sampling=TextSampling(seed=6)))
    )
    assert other.generations != runs[0].generations
    for prompt, text in zip(case.generation_prompts, runs[0].generations, strict=True):
        assert text.startswith(prompt)
    metrics = runs[0].metrics()
    assert metrics["GE"] == pytest.approx(sum(map(compute_ngram_entropy, runs[0].generations)) / 2)
    joined = " ".join(one.text for one in case.references)
    assert metrics["RS"] == pytest.approx(
        DocumentFrequencies.count_shipped().similarity(" ".join(runs[0].generations), joined)
    )
    ids = words(case.references[0].text)["input_ids"]
    log_p = forward(decoder, ids)
    total = sum(log_p[i - 1, ids[i]].item() for i in range(1, len(ids)))
    assert metrics["ESS"] == pytest.approx(math.exp(-total / len(ids)), rel=1e-5)
    without = Case(case.prompt, case.target_new)
    (bare,) = next(evaluate_blocks(decoder, words, [without], EvaluationSettings(0, sampling=sampling)))
    assert not {"GE", "RS", "ESS"} & set(bare.metrics())


def test_sampling_is_top_five(decoder_of: Callable[[str], Decoder]) -> None:
    """Each new token is one of the five likeliest. A text has 100 tokens, or ends with the end token."""
    decoder = decoder_of("llama")
    vocabulary = {f"v{i}": i for i in range(96)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="v0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    prompts = ["v5 v6", "v9 v10 v11 v12", " ".join(f"v{i}" for i in range(10, 90))]
    ranks = set()
    for prompt, text in zip(prompts, sample_texts(decoder, tokenizer, prompts, seed=2), strict=True):
        ids = tokenizer(text)["input_ids"]
        begin = len(tokenizer(prompt)["input_ids"])
        assert text.startswith(prompt)
        end = next((at for at in range(begin, len(ids)) if ids[at] == 2), len(ids) - 1)
        assert len(ids) == 100 and begin < end
        for at in range(begin, end + 1):
            following = forward(decoder, ids[:at])[-1]
            ranks.add(int((following > following[ids[at]]).sum()))
    assert ranks == {0, 1, 2, 3, 4}


def test_retention_matches_plain_scores(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder = decoder_of("llama")
    prompts = [f"The {word} is located in" for word in WORDS]
    completions = [plain_completion(decoder, words, words(prompt)["input_ids"], 1) for prompt in prompts]
    requests = [
        EarlierRequest("first" if n < 5 else "second", prompt, answer if n % 2 else "Because")
        for n, (prompt, answer) in enumerate(zip(prompts, completions, strict=True))
        if answer.strip()
    ]
    results = measure_retention(decoder, words, requests, 2, silent)
    for request, one in zip(requests, results, strict=True):
        _, first = plain_score(decoder, words, request.prompt, request.target)
        assert one.first_choice == all(first) == bool(one.metrics()["RA"])
        assert one.free == begins_with(one.completion, request.target)
    assert 0 < sum(one.first_choice for one in results) < len(results)
    rows = count_by_edit(results)
    assert [row["edit"] for row in rows] == ["first", "second"]
    for row in rows:
        group = [one for one in results if one.request.edit == row["edit"]]
        assert row["requests"] == len(group)
        assert row["first_choice"] == sum(one.first_choice for one in group)
        assert row["free"] == sum(one.free for one in group)
