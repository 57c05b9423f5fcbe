"""A swapped subject has equally many tokens and another answer, and changes nothing else in the prompt."""

import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from retcon.engine.errors import InputError
from retcon.engine.tracing.corruption import find_swaps, swap_subject
from retcon.tests.helpers.tiny_tokenizers import byte_tokenizer, sentencepiece_tokenizer

PROMPT = "in The Tower is located in the city of"


def test_swap_replaces_the_subject(words_after_start: PreTrainedTokenizerBase) -> None:
    ids = swap_subject(words_after_start, PROMPT, "The Tower", "Toyota Camry")
    assert ids == words_after_start("in Toyota Camry is located in the city of")["input_ids"]


def test_swap_replaces_first_occurrence_only(words: PreTrainedTokenizerBase) -> None:
    """`locate_subject` locates that occurrence."""
    ids = swap_subject(words, "Paris is the capital and Paris is in", "Paris", "Rome")
    assert ids == words("Rome is the capital and Paris is in")["input_ids"]


@pytest.mark.parametrize("other", ["Paris", "The Eiffel Tower", "", "The Tower ,"])
def test_other_number_of_tokens_is_refused(other: str, words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="token"):
        swap_subject(words, PROMPT, "The Tower", other)


def test_missing_subject_is_refused(words: PreTrainedTokenizerBase) -> None:
    with pytest.raises(InputError, match="not in the prompt"):
        swap_subject(words, PROMPT, "Big Ben", "Paris Rome")


@pytest.mark.parametrize("tokenizer", [byte_tokenizer(), sentencepiece_tokenizer()], ids=["bytes", "pieces"])
def test_tokens_are_counted_inside_the_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    prompt = "the Tower is in"
    counts = {
        other: len(tokenizer(prompt.replace("Tower", other))["input_ids"])
        for other in ("Camry", "Paris", "日")
    }
    own = len(tokenizer(prompt)["input_ids"])
    for other, count in counts.items():
        if count == own:
            ids = swap_subject(tokenizer, prompt, "Tower", other)
            assert ids == tokenizer(prompt.replace("Tower", other))["input_ids"]
        else:
            with pytest.raises(InputError):
                swap_subject(tokenizer, prompt, "Tower", other)


def test_changed_neighbor_tokens_are_refused() -> None:
    """`xab` is x, ab and `yab` is ya, b: equally many tokens, but the token after the subject differs."""
    vocabulary = {piece: i for i, piece in enumerate(["x", "y", "z", "a", "b", "ab", "ya"])}
    merging = Tokenizer(models.BPE(vocabulary, [("y", "a"), ("a", "b")]))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=merging)
    assert swap_subject(tokenizer, "xab", "x", "z") == [2, 5]
    with pytest.raises(InputError, match="around"):
        swap_subject(tokenizer, "xab", "x", "y")


def test_each_fact_gets_next_matching_subject(words: PreTrainedTokenizerBase) -> None:
    facts = [
        ("the city of Paris is in", "Paris", "France"),
        ("the city of Berlin is in", "Berlin", "France"),  # the same answer as the first
        ("The Eiffel Tower is located in", "The Eiffel Tower", "Paris"),  # nothing of three tokens
        ("the city of Rome is in", "Rome", "Italy"),
        ("sport and Paris", "Paris", "football"),  # the same subject as the first
    ]
    swaps = find_swaps(words, facts)
    other = {
        ("the city of Paris is in", "Paris"): "the city of Rome is in",
        ("the city of Berlin is in", "Berlin"): "the city of Rome is in",
        ("the city of Rome is in", "Rome"): "the city of Paris is in",
        ("sport and Paris", "Paris"): "sport and Berlin",  # round the end of the set
    }
    assert swaps == {fact: words(text)["input_ids"] for fact, text in other.items()}


def test_one_prompt_with_two_subjects(words: PreTrainedTokenizerBase) -> None:
    """Each subject is swapped in its own place. Without answers, any other subject matches."""
    prompt = "Paris and Berlin"
    swaps = find_swaps(words, [(prompt, "Paris", None), (prompt, "Berlin", None)])
    assert swaps == {
        (prompt, "Paris"): words("Berlin and Berlin")["input_ids"],
        (prompt, "Berlin"): words("Paris and Paris")["input_ids"],
    }


def test_set_without_matching_subjects(words: PreTrainedTokenizerBase) -> None:
    assert find_swaps(words, []) == {}
    assert find_swaps(words, [("the city of Paris is in", "Paris", "France")]) == {}
    same = [("the city of Paris", "Paris", "France"), ("the city of Berlin", "Berlin", "France")]
    assert find_swaps(words, same) == {}


def test_missing_subject_does_not_affect_other_facts(words: PreTrainedTokenizerBase) -> None:
    facts = [("the city of Paris", "Rome", "France"), ("the city of Berlin", "Berlin", "Italy")]
    assert find_swaps(words, facts) == {
        ("the city of Berlin", "Berlin"): words("the city of Rome")["input_ids"]
    }
