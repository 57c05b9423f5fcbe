"""The report of a passage run in its three forms, and what hostile text can do in it: nothing."""

import copy
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from retcon.store.errors import InputError
from retcon.tui.presentation.passage_report import save_report, to_html, to_markdown, to_parts
from retcon.tui.presentation.passage_summary import sections
from rich.cells import cell_len
from rich.console import Console

HOSTILE = (
    "<script>alert(1)</script><img src=x onerror=alert(1)>\"'> ](http://evil) | `x` ![a](b) **b** $x$ $y$"
    "\n# top\x1b[31m\u202e{0}"
)


def said(prompt: str, first: bool, whole: bool, free: bool, completion: str) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "first_token": first,
        "first_choice": whole,
        "free": free,
        "completion": completion,
    }


def record() -> dict[str, Any]:
    one = said("", True, True, True, " cellist.")
    return {
        "title": "Marta", "model": "starter", "base": "r0", "revision": "r2",
        "facts": [],
        "stages": [{"name": "write", "seconds": 431.0, "tokens": None, "memory": 1_400_000_000}],
        "proof": {
            "protocol": "greedy",
            "facts": [
                {"prompt": "Marta is a", "object": "cellist",
                 "before": {"first_choice": False, "free": False, "completion": " cat"},
                 "after": {name: value for name, value in one.items() if name != "prompt"},
                 "held_out": [said("By trade, Marta is a", True, False, False, " chef")], "judge": 3},
                {"prompt": "Marta lives in", "object": "Reykjavik",
                 "before": {"first_choice": False, "free": False, "completion": " Oslo"},
                 "after": {"first_token": True, "first_choice": False, "free": False, "completion": " Reykja"},
                 "held_out": [], "judge": None},
            ],
            "retention": [
                {"edit": "r1", "requests": 1, "first_choice": 1, "free": 1,
                 "facts": [{"fact": 0, "first_choice": True, "free": True}]},
                {"edit": "r2", "requests": 2, "first_choice": 1, "free": 0,
                 "facts": [{"fact": 0, "first_choice": True, "free": False},
                           {"fact": 1, "first_choice": False, "free": False}]},
            ],
            "drift": {"kept": 0.975, "kl": 0.0042, "perplexity_before": 20.0, "perplexity_after": 20.2,
                      "bleed": 0.25, "prompts": 200,
                      "bleeds": [{"kind": "namesakes", "pairs": 4, "first_token": 2, "whole": 1}]},
        },
        "answers": [
            {"way": "edited", "protocol": "the question alone; greedy", "take_in_seconds": 431.0,
             "memory": 1_200_000_000,
             "questions": [{"question": "What is Marta?", "answers": ["cellist", "Reykjavik"], "said": "A cellist.",
                            "held": 1, "judge": 2, "seconds": 0.5, "tokens": 20, "ended": False}]},
            {"way": "retrieval", "protocol": "2 chunks before it; greedy", "take_in_seconds": 0.001,
             "memory": None,
             "questions": [{"question": "What is Marta?", "answers": ["cellist", "Reykjavik"],
                            "said": "A cellist in Reykjavik.", "held": 2, "judge": None, "seconds": 1.5,
                            "tokens": 120}]},
        ],
    }  # fmt: skip


GOLDEN = """# Marta in starter

## Revisions

From r0 to r2.

## What stuck

| asked | counted | before | after |
| --- | --- | --- | --- |
| facts, their own prompt | first token right | - | 2 of 2 |
| facts, their own prompt | whole object, teacher-forced | 0 of 2 | 1 of 2 |
| facts, their own prompt | free generation begins with it | 0 of 2 | 1 of 2 |
| held-out wordings | first token right | - | 1 of 1 |
| held-out wordings | whole object, teacher-forced | - | 0 of 1 |
| held-out wordings | free generation begins with it | - | 0 of 1 |
| facts, their own prompt | judge, 0 to 3 | - | 3.00 |

## Facts

| # | prompt | object | first | whole | free | wordings | judge | goes on with |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | Marta is a | cellist | ✓ | ✓ | ✓ | 0 of 1 | 3 | cellist. |
| 2 | Marta lives in | Reykjavik | ✓ | · | · | - | - | Reykja |

## Held-out wordings

These were never trained on.

| # | prompt | first | whole | free | goes on with |
| --- | --- | --- | --- | --- | --- |
| 1 | By trade, Marta is a | ✓ | · | · | chef |

## Retention

● whole by teacher forcing and in free generation, ◐ by one of them, ○ by neither, · not written yet.

| after edit | asked | whole | free | facts from the first to the last |
| --- | --- | --- | --- | --- |
| r1 | 1 | 1 | 1 | ●· |
| r2 | 2 | 1 | 0 | ◐○ |

## What else has changed

| value | measured |
| --- | --- |
| 97.5 % of 200 | other prompts whose first choice is kept |
| 0.0042 nats | KL from before, on the same prompts |
| 20.20, +1.0 % | perplexity of other text, 20.00 before |
| 25.0 % | bleed: prompts with another's name that now go on with the object |
| 1 of 4 | that with the names of people with the subject's last word; the object's first token: 2 |

## The ways against each other

Parts: mean share of the answer's parts that are held; in full: questions with every part; seconds and tokens, in and \
out, are means per question.

| way |  | parts | in full | judge | take in | s | tokens | memory |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| edited | █████····· | 50.0 % | 0 of 1 | 2.00 | 7:11 | 0.50 | 20 | 1.2 GB |
| retrieval | ██████████ | 100.0 % | 1 of 1 | - | under 0.01 s | 1.50 | 120 | - |

## Questions

| question (what a full answer holds) | way | held | said |
| --- | --- | --- | --- |
| What is Marta? (cellist; Reykjavik) | edited | 1/2 | A cellist. … (at the limit) |
|  | retrieval | 2/2 | A cellist in Reykjavik. |

## Costs

| stage | time | tokens | memory |
| --- | --- | --- | --- |
| write | 7:11 | - | 1.4 GB |

## How it was measured

Proof: greedy.

edited: the question alone.

retrieval: 2 chunks before it.

Every way: greedy.
"""


def test_markdown() -> None:
    assert to_markdown(record()) == GOLDEN


def poisoned(value: Any) -> Any:
    """The same record with every text in it hostile."""
    if isinstance(value, dict):
        return {name: one if name == "kind" else poisoned(one) for name, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one) for one in value]
    return value + HOSTILE if isinstance(value, str) else value


class Page(HTMLParser):
    """The tags of a page with what is in them, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_stands_alone_and_runs_nothing(tmp_path: Path) -> None:
    clean, hostile = Page(to_html(record())), Page(to_html(poisoned(record())))
    # Hostile text makes not one tag more, and no attribute but the pictures' own bytes.
    assert [tag for tag, _ in hostile.tags] == [tag for tag, _ in clean.tags]
    assert {tag for tag, _ in hostile.tags}.isdisjoint({"script", "a", "link", "iframe", "object", "form"})
    for (tag, attributes), (_, wanted) in zip(hostile.tags, clean.tags, strict=True):
        assert attributes.keys() == wanted.keys()
        assert {name: one for name, one in attributes.items() if name != "src"} == {
            name: one for name, one in wanted.items() if name != "src"
        }, tag
    pictures = [attributes["src"] for tag, attributes in hostile.tags if tag == "img"]
    assert len(pictures) == 3
    assert all(source and source.startswith("data:image/svg+xml;base64,") for source in pictures)
    assert "<script>alert(1)</script>" in hostile.text, "it is shown as text"
    assert not any(char in hostile.text for char in "\x1b\u202e")
    assert any(attributes.get("content", "").startswith("default-src 'none'") for _, attributes in clean.tags)  # type: ignore[union-attr]
    assert to_html(record()) == to_html(copy.deepcopy(record())), "the same record gives the same file"


def test_markdown_and_terminal_take_hostile_text_as_text() -> None:
    clean, hostile = to_markdown(record()), to_markdown(poisoned(record()))
    # No line more, no cell more, no tag, no code, no picture.
    assert hostile.count("\n") == clean.count("\n")
    for one, other in zip(hostile.splitlines(), clean.splitlines(), strict=True):
        assert one.replace(r"\|", "").count("|") == other.count("|")
    assert "<" not in hostile and "\x1b" not in hostile and "\u202e" not in hostile
    assert r"\`x\` !\[a\](b) \*\*b\*\*" in hostile and "`x`" not in hostile.replace(r"\`", "")
    shown = shown_at(80, poisoned(record()))
    assert not any(char in shown for char in "\x1b\u202e")
    assert "<script>" in shown


def shown_at(width: int, of: dict[str, Any]) -> str:
    into = io.StringIO()
    console = Console(file=into, width=width, markup=False, highlight=False, emoji=False)
    for part in to_parts(of):
        console.print(part)
    return into.getvalue()


def test_a_terminal_of_80_columns() -> None:
    shown = shown_at(80, record())
    assert max(map(cell_len, shown.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "edited █████····· 50.0 % 0 of 1 2.00 7:11 0.50 20 1.2 GB" in lines
    at = lines.index("1 ✓ ✓ ✓ 0 of 1 3 Marta is a")
    assert lines[at + 1 : at + 3] == ["cellist", "cellist."]
    assert "r2 2 1 0 ◐○" in lines


def test_a_run_that_was_stopped_has_fewer_sections() -> None:
    begun = record() | {"proof": None, "answers": []}
    assert [section.title for section in sections(begun)] == ["Revisions", "Costs"]
    counted = record()
    for entry in counted["proof"]["retention"]:
        del entry["facts"]
    assert "| r2 | 2 | 1 | 0 |\n" in to_markdown(counted)
    for made in (begun, counted):
        assert to_html(made).endswith("</html>\n") and shown_at(80, made)


def test_saving(tmp_path: Path) -> None:
    begun = record() | {"proof": None, "answers": []}
    for name, made in (("report.md", to_markdown(begun)), ("report.HTML", to_html(begun))):
        save_report(tmp_path / name, begun)
        assert (tmp_path / name).read_text(encoding="utf-8") == made
    with pytest.raises(InputError, match=r"\.md or \.html"):
        save_report(tmp_path / "report.pdf", begun)
    with pytest.raises(InputError, match="no folder"):
        save_report(tmp_path / "none" / "report.md", begun)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.HTML", "report.md"]
