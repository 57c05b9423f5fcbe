"""The file format of passages: reading, writing, and the errors for invalid lines."""

import random
from pathlib import Path

import pytest

from retcon.passage_facts import PassageFact, PassageQuestion
from retcon.store.errors import InputError
from retcon.store.facts.passage_format import Passage, format_passage
from retcon.store.facts.passage_reader import parse_passage, read_passage, read_prose

EXAMPLE = r"""
# Marta Lindqvist
- is a professional | cellist
  ~ {} earns her living as a
  ? By trade, {} is a
  ! the object is short

- 's mother is | Anna Berg
- In 1999 {} moved to | Oslo \| Bergen

# Malmö Quartet
- was founded by | Marta Lindqvist

## Questions
What does Marta do? | cellist; teacher\; tutor
\# of moves? | 1

## Text
Marta plays.

## Questions
# not a heading | but text
"""

PASSAGE = Passage(
    title="Marta Lindqvist",
    text="Marta plays.\n\n## Questions\n# not a heading | but text",
    facts=(
        PassageFact(
            "Marta Lindqvist",
            "{} is a professional",
            "cellist",
            ("{} earns her living as a",),
            ("By trade, {} is a",),
        ),
        PassageFact("Marta Lindqvist", "{}'s mother is", "Anna Berg"),
        PassageFact("Marta Lindqvist", "In 1999 {} moved to", "Oslo | Bergen"),
        PassageFact("Malmö Quartet", "{} was founded by", "Marta Lindqvist"),
    ),
    questions=(
        PassageQuestion("What does Marta do?", ("cellist", "teacher; tutor")),
        PassageQuestion("# of moves?", ("1",)),
    ),
)


def test_example_is_read_and_written() -> None:
    assert parse_passage(EXAMPLE, "a.facts") == PASSAGE
    assert parse_passage(format_passage(PASSAGE), "a.facts") == PASSAGE
    assert "- is a professional | cellist\n  ~ {} earns" in format_passage(PASSAGE)


PIECES = "ab Zü|;\\#!~?-'’:{} Title:\u2028\u202e\xa0$&*  "


def words(draw: random.Random) -> str:
    text = ""
    while not text:
        generated = "".join(draw.choice(PIECES) for _ in range(draw.randint(1, 9)))
        text = generated.replace("{", "").replace("}", "").strip()
    return text


def template(draw: random.Random) -> str:
    return f"{draw.choice(['', words(draw) + ' ', words(draw)])}{{}}{draw.choice(['', ' ', chr(39)])}{words(draw)}"


def passage(draw: random.Random) -> Passage:
    facts = []
    for _ in range(draw.randint(1, 4)):
        templates = [template(draw) for _ in range(draw.randint(1, 4))]
        cut = draw.randint(1, len(templates))
        subject = draw.choice(["Marta", words(draw)])
        facts.append(
            PassageFact(subject, templates[0], words(draw), tuple(templates[1:cut]), tuple(templates[cut:]))
        )
    questions = [
        PassageQuestion(words(draw), tuple(words(draw) for _ in range(draw.randint(1, 3))))
        for _ in range(draw.randint(0, 3))
    ]
    text = "\n".join(words(draw) for _ in range(draw.randint(0, 4))).strip()
    return Passage(draw.choice([facts[0].subject, words(draw)]), text, tuple(facts), tuple(questions))


def test_written_passage_is_read_back() -> None:
    draw = random.Random(8)
    tried = 0
    while tried < 1500:
        try:
            generated = passage(draw)
        except InputError:  # two generated facts are equal by chance
            continue
        tried += 1
        assert parse_passage(format_passage(generated, {0: ["\x1b[2Jodd\nremark"]}), "p") == generated


INVALID = [
    ("", "a.facts has no facts"),
    ("# A\n", "line 1: the subject 'A' has no facts"),
    ("# A\n- is | b\n# C\n## Questions\n", "line 3: the subject 'C' has no facts"),
    ("\n- is a | b", "line 2: this fact has no subject"),
    ("# A\n~ {} is", "line 2: this paraphrase (~) has no fact"),
    ("# A\n- is | b\n# C\n? {} is", "line 4: this paraphrase (?) has no fact"),
    ("## Questions\nWho? | A\n# B\n- is | c\n## Questions\n- is | d\n? {} is", r"line 7: '? {} is' has 0 |"),
    ("# A\n- is b", "line 2: the fact 'is b' has no |"),
    ("# A\n- is | b | c", "line 2: the fact 'is | b | c' has more than one |"),
    ("# A\n- is |", "line 2: the object is empty"),
    ("# A\n- | b", "line 2: the relation is empty"),
    ("#\n- is | b", "line 1: the subject is empty"),
    ("#A\n- is | b", "line 1: '#A' is not a heading"),
    ("# A\n- {} is like {} | b", "line 2: '{} is like {}' contains {} 2 times"),
    ("# A\n- is {a} | b", "line 2: 'is {a}' contains {} 0 times"),
    ("# A\n- {} is {a} | b", "line 2: '{} is {a}' contains a brace other than {}"),
    ("# Ann\n- is | b\n~ Ann was", "line 3: 'Ann was' has no {}: write {} in place of 'Ann'"),
    ("# A\n- is | b\n~ it is", "line 3: 'it is' contains {} 0 times"),
    ("# A\n- is | b\n~", "line 3: the paraphrase is empty"),
    ("# A\n- is | b\n~ {} was\n? {}  WAS", "line 4: '{}  WAS' is already a template of this fact"),
    ("# A\n- is | b\n? {} is", "line 3: '{} is' is already a template of this fact"),
    ("# A\n- is | b\n- is | c\n- is | B", "line 4: this fact is already in line 2"),
    ("# A\n- is | b\nand more", "line 3: 'and more' is none of these"),
    ("# A\n- is | b\nTitle: late", "line 3: write one title, before the first subject"),
    ("# A\n- is | b\n## Notes\n", "line 3: '## Notes' is not a heading"),
    ("# A\n- is | b\n## Questions\nWho", "line 4: 'Who' has 0 |"),
    ("# A\n- is | b\n## Questions\nWho? | ;", "line 4: a part of the answer to 'Who?' is empty"),
    ("# A\n- is | b\n## Questions\nWho? | a\nWho? | b", "line 5: this question is already in line 4"),
    ("# A\n- is | b\n## Text\na\0b", "line 3: the text contains '\\x00'"),
    ("# A\n- is | \x1b[2Jb", "line 2: the line contains the control character '\\x1b'"),
    ("# A\n- is \u202eevil" + "x" * 200, "line 2: the fact 'is \\u202eevil"),
]


@pytest.mark.parametrize(("text", "said"), INVALID, ids=range(len(INVALID)))
def test_error_names_the_line(text: str, said: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_passage(text, "a.facts")
    message = str(caught.value)
    assert said in message and message.startswith("a.facts")
    assert message.isprintable() and len(message) < 300


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"# A\n- is | b\xff", "line 2: this is not UTF-8 (byte 0xff)"),
        ("# A\n- is | b".encode("utf-16"), "line 1: this is not UTF-8"),
        (None, "cannot be read"),
    ],
)
def test_unreadable_file(tmp_path: Path, data: bytes | None, said: str) -> None:
    path = tmp_path / "a.facts"
    if data is not None:
        path.write_bytes(data)
    for read in (read_passage, read_prose):
        with pytest.raises(InputError, match=r"a\.facts") as caught:
            read(path)
        assert said in str(caught.value)


def test_other_encodings_and_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.facts"
    path.write_bytes(b"\xef\xbb\xbf# A\r\n-\tis a | b\r\n## Text\r\none\r\ntwo\r\n\r\n")
    assert read_passage(path) == Passage("A", "one\ntwo", (PassageFact("A", "{} is a", "b"),))
    path.write_bytes(b"one\rtwo\r\n")
    assert read_prose(path) == "one\ntwo"
    path.write_bytes(b" \n")
    with pytest.raises(InputError, match="is empty"):
        read_prose(path)


def test_values_that_no_file_holds_are_rejected() -> None:
    fact = PassageFact("A", "{} is", "b")
    for make in (
        lambda: PassageFact("A", "{} is", "b\nc"),
        lambda: PassageFact("A", "{} is", " b"),
        lambda: PassageFact("A", "is", "b"),
        lambda: PassageFact("A", "{} is", "b", ("{} was",), ("{} was",)),
        lambda: PassageQuestion("Who?", ()),
        lambda: Passage("t", "", (fact, fact)),
        lambda: Passage("t", "", ()),
        lambda: Passage("t", "a\r\n", (fact,)),
        lambda: Passage("t", "", (fact,), (PassageQuestion("Who?", ("a",)), PassageQuestion("Who?", ("b",)))),
    ):
        with pytest.raises(InputError):
            make()
