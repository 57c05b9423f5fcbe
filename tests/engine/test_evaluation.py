"""Every metric of an evaluation against its definition, written out as a plain slow loop over whole forward passes."""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from retcon.engine.decoder import Decoder
from retcon.engine.errors import InputError
from retcon.engine.evaluation import (
    Case,
    CaseResult,
    Neighbour,
    Question,
    Questions,
    Reference,
    Score,
    Writing,
    digest,
    evaluate,
    evaluate_blocks,
    score_targets,
)
from retcon.engine.evaluation.drift import held_out, measure_drift
from retcon.engine.evaluation.fluency import Terms, entropy, sampled
from retcon.engine.evaluation.free import begins_with, holds
from retcon.engine.evaluation.probes import negated, replies, user_text
from retcon.engine.evaluation.retention import Earlier, ask_again, by_edit
from retcon.engine.metrics import METRICS
from retcon.engine.progress import Progress, silent
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

FAMILIES = ["llama", "gpt2", "gemma2"]
WORDS = ("Eiffel", "Tower", "Paris", "Rome", "Berlin", "France", "Italy", "city", "Toyota", "Camry", "football", "he",
         "she", "born", "mother", "tongue")  # fmt: skip


def cases(count: int) -> list[Case]:
    """Cases of different lengths, some of which lack what a metric needs."""
    made = []
    for n in range(count):
        one, two, three = (WORDS[(n * step + begin) % len(WORDS)] for step, begin in ((1, 1), (3, 3), (5, 6)))
        prompt = f"The {one} is located in" + " the city of" * (n % 2)
        made.append(
            Case(
                prompt,
                f"{two} {three}" if n % 3 else two,
                three if n % 4 else None,
                tuple(f"{one} {word}" for word in WORDS[: n % 3]),
                tuple(Neighbour(f"The {word} plays", one) for word in WORDS[n : n + n % 4]),
                one,
                (f"The {one} is not located in",) if n % 2 else (),
                (Question(f"{one} was born in the", (two, three)),) if n % 5 == 0 else (),
                (f"The {one}", f"he plays {one}"),
                (Reference(f"{one} is a city in {two}", one), Reference(f"{three} plays sport", three)),
            )
        )
    return made


def forward(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    """log p of the next token at each position, `[T, vocabulary]`, of one row."""
    with torch.no_grad():
        return decoder.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)


def plain_score(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompt: str, target: str
) -> tuple[float, list[bool]]:
    """Mean NLL of the target's tokens, and whether each is the first choice; one token, one pass."""
    ids = tokenizer(prompt)["input_ids"]
    nlls, first = [], []
    for token in tokenizer(target, add_special_tokens=False)["input_ids"]:
        following = forward(decoder, ids)[-1]
        nlls.append(-following[token].item())
        first.append(following.argmax().item() == token)
        ids = [*ids, token]
    return sum(nlls) / len(nlls), first


def plain_completion(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, ids: list[int], count: int) -> str:
    """Greedy, one pass a token."""
    new: list[int] = []
    while len(new) < count:
        new.append(int(forward(decoder, ids + new)[-1].argmax()))
        if new[-1] == decoder.model.generation_config.eos_token_id:
            break
    return tokenizer.decode(new, skip_special_tokens=True)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("start", [False, True])
def test_scores(
    family: str,
    start: bool,
    decoder_of: Callable[[str], Decoder],
    words: PreTrainedTokenizerBase,
    words_after_start: PreTrainedTokenizerBase,
) -> None:
    decoder, tokenizer = decoder_of(family), words_after_start if start else words
    asked = [(case.prompt, case.target_new) for case in cases(12)]
    first_choice = plain_completion(decoder, tokenizer, tokenizer(asked[0][0])["input_ids"], 2)
    asked.append((asked[0][0], first_choice))
    for (prompt, target), score in zip(asked, score_targets(decoder, tokenizer, asked), strict=True):
        nll, first = plain_score(decoder, tokenizer, prompt, target)
        assert score.nll == pytest.approx(nll, abs=1e-4)
        assert (score.first_choice, score.tokens) == (all(first), pytest.approx(sum(first) / len(first)))
    assert score.first_choice and score.tokens == 1


def shifted(decoder: Decoder) -> tuple[Decoder, Callable[[], Iterator[None]]]:
    """A decoder over an edited copy, and the context in which the copy has its old weights."""
    model = copy.deepcopy(decoder.model)
    edited = Decoder(model, decoder.anatomy)
    weight = edited.part("matrix", 1).weight
    old = weight.data.clone()
    new = old + 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(3))
    weight.data.copy_(new)

    @contextmanager
    def at_base() -> Iterator[None]:
        weight.data.copy_(old)
        try:
            yield
        finally:
            weight.data.copy_(new)

    return edited, at_base


@pytest.mark.parametrize("family", FAMILIES)
def test_metrics_of_cases(
    family: str, decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, at_base = shifted(decoder_of(family))
    asked = cases(9)
    (results,) = evaluate_blocks(decoder, words, asked, Questions(4, at_base))
    for case, result in zip(asked, results, strict=True):
        found = result.numbers()
        wanted = plain_metrics(decoder_of(family), decoder, words, case)
        assert found == pytest.approx(wanted, abs=2e-5), case
        assert set(found) <= set(METRICS)


def plain_metrics(
    base: Decoder, decoder: Decoder, tokenizer: PreTrainedTokenizerBase, case: Case
) -> dict[str, float]:
    """By the definitions of notes/editing.md, one prompt after another."""
    found: dict[str, float] = {}

    def score(prompt: str, target: str) -> tuple[float, list[bool]]:
        return plain_score(decoder, tokenizer, prompt, target)

    def said(prompt: str) -> str:
        return plain_completion(decoder, tokenizer, tokenizer(prompt)["input_ids"], 4)

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    for name, prompts in (("E", [case.prompt]), ("P", list(case.paraphrases))):
        if not prompts:
            continue
        new = [score(prompt, case.target_new) for prompt in prompts]
        found[f"{name}A"] = mean([float(all(first)) for _, first in new])
        found[f"T{name}"] = mean([mean([float(one) for one in first]) for _, first in new])
        found[f"F{name}"] = mean([float(begins_with(said(prompt), case.target_new)) for prompt in prompts])
        if case.target_true:
            true = [score(prompt, case.target_true) for prompt in prompts]
            pairs = list(zip(new, true, strict=True))
            found[f"{name}S"] = mean([float(t[0] > n[0]) for n, t in pairs])
            found[f"{name}M"] = mean([math.exp(-n[0]) - math.exp(-t[0]) for n, t in pairs])
    if case.neighbours:
        near = [(score(n.prompt, case.target_new), score(n.prompt, n.true)) for n in case.neighbours]
        found["NS"] = mean([float(t[0] < n[0]) for n, t in near])
        found["NM"] = mean([math.exp(-t[0]) - math.exp(-n[0]) for n, t in near])
        found["NA"] = mean([float(all(t[1])) for _, t in near])
        found["TN"] = mean([mean([float(one) for one in t[1]]) for _, t in near])
        found["FN"] = mean([float(begins_with(said(n.prompt), n.true)) for n in case.neighbours])
        apart = []
        for neighbour in case.neighbours:
            ids = tokenizer(neighbour.prompt)["input_ids"]
            p, q = forward(base, ids)[-1], forward(decoder, ids)[-1]
            apart.append(sum((p[i].exp() * (p[i] - q[i])).item() for i in range(len(p))))
        found["KN"] = mean(apart)
    if case.portability:
        hops = [score(question.prompt, question.answers[0])[1] for question in case.portability]
        found["HA"] = mean([float(all(first)) for first in hops])
        found["TH"] = mean([mean([float(one) for one in first]) for first in hops])
        told = [(said(question.prompt), question.answers) for question in case.portability]
        found["FH"] = mean([float(any(holds(text, one) for one in answers)) for text, answers in told])
    if case.negations:
        found["XA"] = mean([float(all(score(prompt, case.target_new)[1])) for prompt in case.negations])
        found["FX"] = mean([float(begins_with(said(prompt), case.target_new)) for prompt in case.negations])
    return found


def test_answers_are_counted(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    """A case whose targets are what the model says: what counts hits is 1, not only ever 0."""
    decoder = decoder_of("llama")

    def says(prompt: str) -> str:
        return plain_completion(decoder, words, words(prompt)["input_ids"], 1)

    prompt, near, hop, denied = "The city is", "Berlin plays", "Camry was born in", "Tower plays"
    prompts = [text for text in (prompt, near, hop, denied) if says(text).strip()]
    assert len(prompts) == 4
    case = Case(
        prompt,
        says(prompt),
        "football",
        (prompt,),
        (Neighbour(near, says(near)),),
        negations=(prompt,),
        portability=(Question(hop, ("football", says(hop))),),
    )
    found = evaluate(decoder, words, [case], 1)[0].numbers()
    for name in ("ES", "PS", "EA", "PA", "NA", "TE", "TP", "TN", "FE", "FP", "FN", "FH", "XA", "FX"):
        assert found[name] == 1, name
    assert found["HA"] == float(says(hop) == "football")


def test_batches_do_not_change_the_numbers(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, asked = decoder_of("llama"), cases(37)
    reports: list[Progress] = []
    together = evaluate(decoder, words, asked, 3, reports.append)
    assert len(together) == len(asked)
    for case, result in zip(asked, together, strict=True):
        (alone,) = evaluate(decoder, words, [case], 3)
        assert result.numbers() == pytest.approx(alone.numbers(), abs=1e-5)
        assert result.completion == alone.completion
    assert [one.done for one in reports] == sorted(one.done for one in reports)
    assert reports[-1].done == reports[-1].total == 37


def test_going_on_from_a_block_gives_the_same_bits(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    decoder, at_base = shifted(decoder_of("llama"))
    asked, questions = cases(20), Questions(3, at_base, Writing(7))
    whole = [one.as_dict() for block in evaluate_blocks(decoder, words, asked, questions) for one in block]
    rest = evaluate_blocks(decoder, words, asked, questions, start=16)
    assert [one.as_dict() for block in rest for one in block] == whole[16:]


def test_without_generation(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    found = evaluate(decoder_of("llama"), words, cases(6), max_new_tokens=0)[5].numbers()
    assert not {"FE", "FP", "FN", "FH", "FX", "FC", "KN", "GE"} & set(found)
    assert {"EA", "XA", "HA"} <= set(found)


def test_an_empty_target(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="tokenises to nothing"):
        evaluate(decoder_of("llama"), words, [Case("The city is", " ")])


@pytest.mark.parametrize(
    ("text", "target", "begins", "held"),
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
def test_what_counts_as_an_answer(text: str, target: str, begins: bool, held: bool) -> None:
    assert begins_with(text, target) is begins
    assert holds(text, target) is held


@pytest.mark.parametrize(
    ("template", "wanted"),
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
def test_negation(template: str, wanted: str | None) -> None:
    assert negated(template) == wanted


def test_chat(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    decoder, tokenizer = decoder_of("llama"), copy.deepcopy(words)
    assert replies(decoder, tokenizer, ["The city is"], 3) == [None]
    tokenizer.chat_template = (
        "{{ bos_token }} {% for one in messages %}he {{ one.content }} {% endfor %}"
        "{% if add_generation_prompt %}she{% endif %}"
    )
    prompts = ["The Eiffel Tower is located in ", "What is Rome?"]
    assert [user_text(prompt) for prompt in prompts] == [
        "Complete the sentence: The Eiffel Tower is located in ...",
        "What is Rome?",
    ]
    turns = [f"<s> he {user_text(prompt)} she" for prompt in prompts]
    wanted = [
        plain_completion(decoder, tokenizer, tokenizer(turn, add_special_tokens=False)["input_ids"], 6)
        for turn in turns
    ]
    assert replies(decoder, tokenizer, prompts, 6) == wanted
    word = next(one for one in wanted[0].split() if one.isalnum())
    hit, miss = Case(prompts[0], word), Case(prompts[0], "Because Therefore")
    assert [one.numbers()["FC"] for one in evaluate(decoder, tokenizer, [hit, miss], 6)] == [1, 0]


def test_drift(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
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
    found = drift.metrics(seed=1)
    assert found["KG"].value == pytest.approx(sum(apart) / len(apart), abs=1e-5)
    assert found["PPL"].value == pytest.approx(math.exp(sums / count), rel=1e-5)
    assert found["PD"].value == pytest.approx(math.exp((sums - base_sums) / count) - 1, rel=1e-4)
    assert all(one.low <= one.value <= one.high and one.count == 20 for one in found.values())
    protocol = drift.protocol()
    assert protocol["texts"] == "held-out" and len(protocol["texts_sha256"]) == 64


def test_the_base_has_not_drifted(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    drift = measure_drift(decoder_of("llama"), words, "held-out", None, perplexity=True, report=silent)
    assert set(drift.metrics(seed=1)) == {"PPL"}
    assert (
        measure_drift(
            decoder_of("llama"), words, "held-out", None, perplexity=False, report=silent
        ).protocol()
        == {}
    )


def test_held_out_texts_are_held_out(
    decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase
) -> None:
    """None of them stands in the texts that second moments are collected from; a text is cut, not the sum of them."""
    from retcon.engine.corpus import open_corpus

    shipped = " ".join(open_corpus("shipped").documents(seed=0))
    texts = held_out(decoder_of("llama"), words)
    assert not any(opening in shipped for opening in texts.openings)
    assert max(map(len, texts.rows)) <= 128, "the tiny model takes 128"
    other = held_out(decoder_of("llama"), words, "shipped")
    assert sum(map(len, other.rows)) == 4096 and other.source == "shipped"
    with pytest.raises(InputError, match="no text file"):
        held_out(decoder_of("llama"), words, "./none.txt")


def plain_entropy(text: str) -> float:
    """compute_n_gram_entropy of the published code, over words that are separated by spaces here."""
    words, values = text.split(), []
    for n, weight in ((2, 2 / 3), (3, 4 / 3)):
        counts = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        total = sum(counts.values())
        values.append(weight * -sum(c / total * math.log(c / total) / math.log(2) for c in counts.values()))
    return sum(values) / 2


def test_fluency() -> None:
    assert entropy("a b c d e") == pytest.approx((2 / 3 * 2 + 4 / 3 * math.log2(3)) / 2)
    assert entropy("a a a a a") == 0
    assert entropy("one") == entropy("") == 0
    text = "the cat sat on the mat and the cat sat on the hat"
    assert entropy(text) == pytest.approx(plain_entropy(text))
    assert entropy("He said: it's so.") == pytest.approx(plain_entropy("He said : it ' s so ."))


def test_consistency() -> None:
    terms = Terms.of(["rome is old", "rome is in italy", "a cat"])
    # df: rome 2, is 2, old 1, in 1, italy 1, cat 1; 'a' is no term; sklearn's smooth idf.
    idf = {"rome": math.log(4 / 3) + 1, "cat": math.log(4 / 2) + 1, "new": math.log(4 / 1) + 1}
    a, b = {"rome": 2 * idf["rome"], "new": idf["new"]}, {"rome": idf["rome"], "cat": idf["cat"]}
    dot = a["rome"] * b["rome"]
    norms = math.sqrt(sum(x * x for x in a.values())) * math.sqrt(sum(x * x for x in b.values()))
    assert terms.similarity("Rome, rome: a new!", "rome cat") == pytest.approx(dot / norms)
    assert terms.similarity("rome cat", "cat ROME") == pytest.approx(1)
    assert terms.similarity("rome", "cat") == terms.similarity("", "cat") == 0


def test_written_texts(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    decoder, (case,) = decoder_of("llama"), cases(1)
    writing = Writing(seed=5)
    runs = [next(evaluate_blocks(decoder, words, [case], Questions(0, writing=writing)))[0] for _ in range(2)]
    assert runs[0].generations == runs[1].generations
    (other,) = next(evaluate_blocks(decoder, words, [case], Questions(0, writing=Writing(seed=6))))
    assert other.generations != runs[0].generations
    for prompt, text in zip(case.generation_prompts, runs[0].generations, strict=True):
        assert text.startswith(prompt)
    found = runs[0].numbers()
    assert found["GE"] == pytest.approx(sum(map(entropy, runs[0].generations)) / 2)
    joined = " ".join(one.text for one in case.references)
    assert found["RS"] == pytest.approx(Terms.shipped().similarity(" ".join(runs[0].generations), joined))
    ids = words(case.references[0].text)["input_ids"]
    log_p = forward(decoder, ids)
    total = sum(log_p[i - 1, ids[i]].item() for i in range(1, len(ids)))
    assert found["ESS"] == pytest.approx(math.exp(-total / len(ids)), rel=1e-5)
    without = Case(case.prompt, case.target_new)
    (bare,) = next(evaluate_blocks(decoder, words, [without], Questions(0, writing=writing)))
    assert not {"GE", "RS", "ESS"} & set(bare.numbers())


def test_sampling_is_from_the_likeliest(decoder_of: Callable[[str], Decoder]) -> None:
    """Each new token is one of the five likeliest, up to 100 tokens with the prompt, or to the model's end token."""
    decoder = decoder_of("llama")
    vocabulary = {f"v{i}": i for i in range(96)}
    plain = Tokenizer(models.WordLevel(vocabulary, unk_token="v0"))
    plain.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain)
    prompts = ["v5 v6", "v9 v10 v11 v12", " ".join(f"v{i}" for i in range(10, 90))]
    ranks = set()
    for prompt, text in zip(prompts, sampled(decoder, tokenizer, prompts, seed=2), strict=True):
        ids = tokenizer(text)["input_ids"]
        begin = len(tokenizer(prompt)["input_ids"])
        assert text.startswith(prompt)
        end = next((at for at in range(begin, len(ids)) if ids[at] == 2), len(ids) - 1)
        assert len(ids) == 100 and begin < end
        for at in range(begin, end + 1):
            following = forward(decoder, ids[:at])[-1]
            ranks.add(int((following > following[ids[at]]).sum()))
    assert ranks == {0, 1, 2, 3, 4}


def test_retention(decoder_of: Callable[[str], Decoder], words: PreTrainedTokenizerBase) -> None:
    decoder = decoder_of("llama")
    prompts = [f"The {word} is located in" for word in WORDS]
    said = [plain_completion(decoder, words, words(prompt)["input_ids"], 1) for prompt in prompts]
    requests = [
        Earlier("first" if n < 5 else "second", prompt, answer if n % 2 else "Because")
        for n, (prompt, answer) in enumerate(zip(prompts, said, strict=True))
        if answer.strip()
    ]
    kept = ask_again(decoder, words, requests, 2, silent)
    for request, one in zip(requests, kept, strict=True):
        _, first = plain_score(decoder, words, request.prompt, request.target)
        assert one.first_choice == all(first) == bool(one.numbers()["RA"])
        assert one.free == begins_with(one.completion, request.target)
    assert 0 < sum(one.first_choice for one in kept) < len(kept)
    rows = by_edit(kept)
    assert [row["edit"] for row in rows] == ["first", "second"]
    for row in rows:
        mine = [one for one in kept if one.request.edit == row["edit"]]
        assert row["requests"] == len(mine)
        assert row["first_choice"] == sum(one.first_choice for one in mine)
        assert row["free"] == sum(one.free for one in mine)


def test_hand_made_numbers() -> None:
    """The arithmetic alone: means within a case, signs, and what is missing where a case lacks something."""
    hit, miss = Score(math.log(2), True, 1.0), Score(math.log(4), False, 0.5)
    case = Case("p", "Rome", "Paris", ("a", "b"), (Neighbour("n", "Oslo"),))
    result = CaseResult(case, hit, miss, [hit, miss], [miss, hit], [hit], [miss], [], [])
    wanted = {"ES": 1, "EM": 0.25, "EA": 1, "TE": 1, "PS": 0.5, "PM": 0, "PA": 0.5, "TP": 0.75, "NS": 0, "NM": -0.25,
              "NA": 0, "TN": 0.5}  # fmt: skip
    assert result.numbers() == pytest.approx(wanted)
    equal = CaseResult(Case("p", "Rome", "Paris"), hit, hit, [], [], [], [], [], [])
    assert equal.numbers() == pytest.approx({"ES": 0, "EM": 0, "EA": 1, "TE": 1})


def test_the_digest_sees_everything() -> None:
    case = cases(1)[0]
    others = [replace(case, target_true="x"), replace(case, references=()), replace(case, negations=("x",))]
    assert len({digest([one]) for one in (case, *others)}) == 4
    assert digest([case]) == digest(cases(1))
    stored = CaseResult(case, Score(1.0, False, 0.0), None, [], [], [], [], [], []).as_dict()
    assert stored["case"]["references"] == 2, "counted, not stored again"
