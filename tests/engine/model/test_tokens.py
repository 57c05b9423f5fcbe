"""Subjects are located with every kind of tokenizer: spaces, start tokens and letters of several tokens."""

import re

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

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
    """The oracle: the tokens of all characters of the subject that are not spaces."""
    encoding = tokenizer(prompt)
    tokens = [encoding.char_to_token(i) for i in range(start, stop) if not prompt[i].isspace()]
    # char_to_token returns the first of several byte tokens of a character; the others have the same offsets.
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
def test_prefers_matches_at_word_boundaries(prompt: str, subject: str, start: int) -> None:
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
def test_covers_exactly_the_subject(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str) -> None:
    located = locate_subject(tokenizer, prompt, subject)
    start = prompt.index(subject)
    assert located.ids == tokenizer(prompt)["input_ids"]
    assert (located.begin, located.end) == covering(tokenizer, prompt, start, start + len(subject))
    assert located.last == located.end - 1
    assert "".join(located.tokens[located.begin : located.end]).replace(" ", "") == subject.replace(" ", "")
    assert len(located.tokens) == len(located.ids)


def test_positions_of_known_words() -> None:
    plain = locate_subject(word_tokenizer(), EIFFEL, "Eiffel Tower")
    assert (plain.begin, plain.end, plain.tokens[1:3]) == (1, 3, ["Eiffel", "Tower"])
    started = locate_subject(word_tokenizer(start=True), EIFFEL, "Eiffel Tower")
    assert (started.begin, started.end, started.tokens[0]) == (2, 4, "<s>")


def test_start_token_is_outside_the_subject() -> None:
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


def test_locates_first_occurrence() -> None:
    located = locate_subject(word_tokenizer(), "is Toyota a Toyota in", "Toyota")
    assert (located.begin, located.end) == (1, 2)


def test_span_selects_later_occurrence() -> None:
    located = locate_span(word_tokenizer(), "is Toyota a Toyota in", 12, 18)
    assert (located.begin, located.end, located.subject) == (3, 4, "Toyota")


@pytest.mark.parametrize(
    "tokenizer", [byte_tokenizer(), sentencepiece_tokenizer()], ids=["bytes", "sentencepiece"]
)
def test_subject_after_prefix_without_space(tokenizer: PreTrainedTokenizerBase) -> None:
    located = locate_subject(tokenizer, "of the city:Paris is", "Paris")
    covered = "".join(located.tokens[located.begin : located.end])
    assert covered.endswith("Paris")
    assert located.tokens[located.end].strip().startswith("is"[0])


@pytest.mark.parametrize("subject", ["Big Ben", "the eiffel tower", "Tower  is"])
def test_missing_subject_is_refused(subject: str) -> None:
    with pytest.raises(InputError, match="not in the prompt"):
        locate_subject(word_tokenizer(), EIFFEL, subject)


@pytest.mark.parametrize("subject", ["", " ", "\n"])
def test_empty_subject_is_refused(subject: str) -> None:
    with pytest.raises(InputError, match="empty"):
        locate_subject(word_tokenizer(), EIFFEL, subject)


def test_subject_without_tokens_is_refused() -> None:
    with pytest.raises(InputError, match="no token"):
        locate_span(word_tokenizer(), "Paris  is", 5, 6)


@every_tokenizer
@pytest.mark.parametrize("target", ["Paris", " Paris", "Paris ", "  Paris\n"])
def test_target_has_one_space_and_no_start_token(tokenizer: PreTrainedTokenizerBase, target: str) -> None:
    ids = encode_target(tokenizer, target)
    assert ids == encode_target(tokenizer, "Paris")
    assert tokenizer.bos_token_id not in ids
    assert tokenizer.decode(ids).strip() == "Paris"


@every_tokenizer
@pytest.mark.parametrize("target", ["Paris", "Toyota Camry", "France is"])
def test_target_ids_continue_the_prompt(tokenizer: PreTrainedTokenizerBase, target: str) -> None:
    together = tokenizer(f"{EIFFEL} {target}")["input_ids"]
    assert tokenizer(EIFFEL)["input_ids"] + encode_target(tokenizer, target) == together


@every_tokenizer
@pytest.mark.parametrize("target", ["", "  ", "\n"])
def test_empty_target_is_refused(tokenizer: PreTrainedTokenizerBase, target: str) -> None:
    with pytest.raises(InputError, match="target"):
        encode_target(tokenizer, target)


def test_prompt_has_start_token() -> None:
    assert encode_prompt(word_tokenizer(start=True), "Paris")[0] == 1
    assert len(encode_prompt(word_tokenizer(), "Paris is")) == 2
    with pytest.raises(InputError, match="nothing"):
        encode_prompt(word_tokenizer(), "")


def test_pad_right() -> None:
    ids, mask = pad_right([[5, 6, 7], [8]], torch.device("cpu"))
    assert ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert mask.tolist() == [[1, 1, 1], [1, 0, 0]]


def test_pad_aligned() -> None:
    ids, mask = pad_aligned([[5, 6, 7], [8, 9], [3]], [0, 1, 0], torch.device("cpu"))
    assert ids.tolist() == [[0, 5, 6, 7], [8, 9, 0, 0], [0, 3, 0, 0]]
    assert mask.tolist() == [[0, 1, 1, 1], [1, 1, 0, 0], [0, 1, 0, 0]]


# Letters of 1 to 4 bytes, combining marks, special spaces, and the special characters of tokenizers.
_ODD = "éßŠİΩ東本😀👩\u200d🔬e\u0301\u200b\u00a0\u2028\ufeff▁Ġ\t\n<s></s>{}'’-ﬁ𝔘\U0010ffff"
unicode_text = st.text(
    st.one_of(st.characters(codec="utf-8"), st.sampled_from(_ODD + "abc TwEi ")), max_size=12
)


@every_tokenizer
@given(before=unicode_text, subject=unicode_text, after=unicode_text, spaced=st.booleans())
def test_any_subject_is_covered_exactly(
    tokenizer: PreTrainedTokenizerBase, before: str, subject: str, after: str, spaced: bool
) -> None:
    space = " " if spaced else ""
    prompt = f"{before}{space}{subject}{space}{after}"
    assume(subject.strip())
    try:
        located = locate_subject(tokenizer, prompt, subject)
    except InputError:
        # A subject is refused only if it has spaces alone at the position of the match.
        place = next(m.start() for m in re.finditer(re.escape(subject), prompt))
        letters = [
            i for i in range(place, place + len(subject)) if tokenizer(prompt).char_to_token(i) is not None
        ]
        assert not letters
        return
    assert located.ids == tokenizer(prompt)["input_ids"] and located.subject == subject
    start = find_subject(prompt, subject)
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
        # A byte tokenizer loses nothing, so the text of the tokens contains the subject.
        assert subject.strip() in tokenizer.decode(located.ids[located.begin : located.end])


def find_subject(prompt: str, subject: str) -> int:
    """The first match at word boundaries, else the first match, found by trying each position."""
    places = [i for i in range(len(prompt)) if prompt.startswith(subject, i)]

    def word(at: int) -> bool:
        return 0 <= at < len(prompt) and (prompt[at].isalnum() or prompt[at] == "_")

    whole = [i for i in places if not word(i - 1) and not word(i + len(subject))]
    return (whole or places)[0]
