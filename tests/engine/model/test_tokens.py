"""Subjects are found where they stand, whatever the tokenizer does to spaces, start tokens and letters."""

import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from retcon.engine.errors import InputError
from retcon.engine.model.tokens import (
    encode_prompt,
    encode_target,
    locate_span,
    locate_subject,
    pad_aligned,
    pad_right,
)
from retcon.tests.helpers.tiny_tokenizers import (
    byte_tokenizer,
    legacy_sentencepiece_tokenizer,
    sentencepiece_tokenizer,
    word_tokenizer,
)
from transformers import PreTrainedTokenizerBase

TOKENIZERS = {
    "words": word_tokenizer(),
    "words-start": word_tokenizer(start=True),
    "sentencepiece": sentencepiece_tokenizer(start=False),
    "sentencepiece-start": sentencepiece_tokenizer(),
    "legacy-sentencepiece": legacy_sentencepiece_tokenizer(),
    "bytes": byte_tokenizer(),
    "bytes-start": byte_tokenizer(start=True),
}
EIFFEL = "The Eiffel Tower is located in the city of"

every_tokenizer = pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS.keys())


def covering(tokenizer: PreTrainedTokenizerBase, prompt: str, start: int, stop: int) -> tuple[int, int]:
    """The plain way: ask the tokenizer for the token of each character that is no space."""
    encoding = tokenizer(prompt)
    tokens = [encoding.char_to_token(i) for i in range(start, stop) if not prompt[i].isspace()]
    # A character of several byte tokens: char_to_token names the first, its offsets are shared by the rest.
    offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    last = max(i for i, span in enumerate(offsets) if span == offsets[max(tokens)])
    return min(tokens), last + 1


@pytest.mark.parametrize(
    ("prompt", "subject", "start"),
    [
        ("Romeo lives in Rome", "Rome", 15),
        ("Parisian Paris, Paris", "Paris", 9),
        ("in Romes and Romeo", "Rome", 3),
        ("Tower of the Tower", "Tower", 0),
        ("a C# book in C", "C", 2),
        ("東京は日本の首都", "日本", 3),
    ],
)
def test_whole_words_go_before_parts_of_words(prompt: str, subject: str, start: int) -> None:
    tokenizer = TOKENIZERS["bytes"]
    located = locate_subject(tokenizer, prompt, subject)
    assert located == locate_span(tokenizer, prompt, start, start + len(subject))


@every_tokenizer
@pytest.mark.parametrize(
    ("prompt", "subject"),
    [
        (EIFFEL, "The Eiffel Tower"),
        ("In Paris the Eiffel Tower is", "Eiffel Tower"),
        ("The mother tongue of Danielle Darrieux is", "Danielle Darrieux"),
        ("located in Paris", "Paris"),
        ("Paris", "Paris"),
        ("of (Toyota Camry) in", "Toyota Camry"),
        ("Toyota's Camry is", "Toyota"),
    ],
)
def test_covers_the_subject_and_nothing_else(
    tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str
) -> None:
    located = locate_subject(tokenizer, prompt, subject)
    start = prompt.index(subject)
    assert located.ids == tokenizer(prompt)["input_ids"]
    assert (located.begin, located.end) == covering(tokenizer, prompt, start, start + len(subject))
    assert located.last == located.end - 1
    assert "".join(located.tokens[located.begin : located.end]).replace(" ", "") == subject.replace(" ", "")
    assert len(located.tokens) == len(located.ids)


def test_known_places_of_words() -> None:
    plain = locate_subject(word_tokenizer(), EIFFEL, "Eiffel Tower")
    assert (plain.begin, plain.end, plain.tokens[1:3]) == (1, 3, ["Eiffel", "Tower"])
    started = locate_subject(word_tokenizer(start=True), EIFFEL, "Eiffel Tower")
    assert (started.begin, started.end, started.tokens[0]) == (2, 4, "<s>")


def test_a_start_token_is_never_part_of_a_subject_at_the_beginning() -> None:
    for tokenizer in (word_tokenizer(start=True), sentencepiece_tokenizer(), byte_tokenizer(start=True)):
        located = locate_subject(tokenizer, EIFFEL, "The Eiffel Tower")
        assert located.ids[0] == tokenizer.bos_token_id
        assert located.begin == 1


@pytest.mark.parametrize("start", [False, True])
@pytest.mark.parametrize("subject", ["東京", "Zürich", "Antonín Dvořák", "😀 Ω"])
def test_letters_of_several_byte_tokens(start: bool, subject: str) -> None:
    tokenizer = byte_tokenizer(start)
    prompt = f"The city of {subject} is"
    located = locate_subject(tokenizer, prompt, subject)
    assert tokenizer.decode(located.ids[located.begin : located.end]).strip() == subject
    assert tokenizer.decode(located.ids[located.end :]) == " is"
    assert located.end - located.begin > len(subject.split())


def test_the_first_of_several_occurrences_is_meant() -> None:
    located = locate_subject(word_tokenizer(), "is Toyota a Toyota in", "Toyota")
    assert (located.begin, located.end) == (1, 2)


def test_a_span_names_a_later_occurrence() -> None:
    located = locate_span(word_tokenizer(), "is Toyota a Toyota in", 12, 18)
    assert (located.begin, located.end, located.subject) == (3, 4, "Toyota")


@pytest.mark.parametrize(
    "tokenizer", [byte_tokenizer(), sentencepiece_tokenizer()], ids=["bytes", "sentencepiece"]
)
def test_a_prefix_without_a_space_before_the_subject(tokenizer: PreTrainedTokenizerBase) -> None:
    located = locate_subject(tokenizer, "of the city:Paris is", "Paris")
    covered = "".join(located.tokens[located.begin : located.end])
    assert covered.endswith("Paris")
    assert located.tokens[located.end].strip().startswith("is"[0])


@pytest.mark.parametrize("subject", ["Big Ben", "the eiffel tower", "Tower  is"])
def test_a_subject_that_is_not_there(subject: str) -> None:
    with pytest.raises(InputError, match="not in the prompt"):
        locate_subject(word_tokenizer(), EIFFEL, subject)


@pytest.mark.parametrize("subject", ["", " ", "\n"])
def test_an_empty_subject(subject: str) -> None:
    with pytest.raises(InputError, match="empty"):
        locate_subject(word_tokenizer(), EIFFEL, subject)


def test_a_subject_that_has_no_token_of_its_own() -> None:
    with pytest.raises(InputError, match="no token"):
        locate_span(word_tokenizer(), "Paris  is", 5, 6)


@every_tokenizer
@pytest.mark.parametrize("target", ["Paris", " Paris", "Paris ", "  Paris\n"])
def test_a_target_follows_the_prompt_with_one_space_and_no_start_token(
    tokenizer: PreTrainedTokenizerBase, target: str
) -> None:
    ids = encode_target(tokenizer, target)
    assert ids == encode_target(tokenizer, "Paris")
    assert tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids).strip() == "Paris"


@every_tokenizer
@pytest.mark.parametrize("target", ["Paris", "Toyota Camry", "France is"])
def test_a_target_continues_the_prompt_as_if_written_together(
    tokenizer: PreTrainedTokenizerBase, target: str
) -> None:
    together = tokenizer(f"{EIFFEL} {target}")["input_ids"]
    assert tokenizer(EIFFEL)["input_ids"] + encode_target(tokenizer, target) == together


@every_tokenizer
@pytest.mark.parametrize("target", ["", "  ", "\n"])
def test_an_empty_target(tokenizer: PreTrainedTokenizerBase, target: str) -> None:
    with pytest.raises(InputError, match="target"):
        encode_target(tokenizer, target)


def test_a_prompt_gets_its_start_token_and_an_empty_one_is_refused() -> None:
    assert encode_prompt(word_tokenizer(start=True), "Paris")[0] == 1
    assert len(encode_prompt(word_tokenizer(), "Paris is")) == 2
    with pytest.raises(InputError, match="nothing"):
        encode_prompt(word_tokenizer(), "")


def test_rows_are_padded_on_the_right() -> None:
    ids, mask = pad_right([[5, 6, 7], [8]], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_rows_are_padded_so_that_chosen_tokens_stand_in_one_column() -> None:
    ids, mask = pad_aligned([[5, 6, 7], [8, 9], [3]], [0, 1, 0], torch.device("cpu"))
    assert ids.tolist() == [[0, 5, 6, 7], [8, 9, 0, 0], [0, 3, 0, 0]]
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]]


# Letters of every length in bytes, marks that join them, spaces that are none, and what tokenizers use for themselves.
_ODD = "éßŠİΩ東本😀👩\u200d🔬e\u0301\u200b\u00a0\u2028\ufeff▁Ġ\t\n<s></s>{}'’-ﬁ𝔘\U0010ffff"
unicode_text = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(_ODD + "abc TwEi ")), max_size=12
)


@every_tokenizer
@given(before=unicode_text, subject=unicode_text, after=unicode_text, spaced=st.booleans())
def test_any_subject_is_covered_and_nothing_whole_beside_it(
    tokenizer: PreTrainedTokenizerBase, before: str, subject: str, after: str, spaced: bool
) -> None:
    space = " " if spaced else ""
    prompt = f"{before}{space}{subject}{space}{after}"
    assume(subject.strip())
    try:
        located = locate_subject(tokenizer, prompt, subject)
    except InputError:
        # Refused only where no letter of it has a token: at the place that would have been taken, all are spaces.
        place = next(m.start() for m in re.finditer(re.escape(subject), prompt))
        letters = [
            i for i in range(place, place + len(subject)) if tokenizer(prompt).char_to_token(i) is not None
        ]
        assert not letters
        return
    assert located.ids == tokenizer(prompt)["input_ids"] and located.subject == subject
    start = _place_of(prompt, subject)
    stop = start + len(subject)
    encoding = tokenizer(prompt, return_offsets_mapping=True)
    for i in range(start, stop):
        token = encoding.char_to_token(i)
        assert token is None or located.begin <= token < located.end, f"{prompt[i]!r} is left out"
    spans = encoding["offset_mapping"][located.begin : located.end]
    assert spans[0][0] < stop and spans[0][1] > start, "the first token is whole outside of it"
    assert spans[-1][0] < stop and spans[-1][1] > start, "the last token is whole outside of it"
    for token, (begin, end) in enumerate(encoding["offset_mapping"]):
        assert located.begin <= token < located.end or end <= start or begin >= stop or begin == end
    if "bytes" in [name.partition("-")[0] for name, one in TOKENIZERS.items() if one is tokenizer]:
        # Nothing is lost in bytes, so that the tokens' text holds the subject.
        assert subject.strip() in tokenizer.decode(located.ids[located.begin : located.end])


def _place_of(prompt: str, subject: str) -> int:
    """The first place as whole words, else the first: by trying each."""
    places = [i for i in range(len(prompt)) if prompt.startswith(subject, i)]

    def word(at: int) -> bool:
        return 0 <= at < len(prompt) and (prompt[at].isalnum() or prompt[at] == "_")

    whole = [i for i in places if not word(i - 1) and not word(i + len(subject))]
    return (whole or places)[0]
