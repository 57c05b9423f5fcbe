"""The report of a passage run in its three forms, with ordinary and with hostile text."""

import copy
import io
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from retcon.store.errors import InputError
from retcon.tui.presentation.passage_report import save_report, to_html, to_markdown, to_parts
from retcon.tui.presentation.passage_summary import sections

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


ANSWERS = {"chat_template": True, "max_new_tokens": 64}
CHUNKS = {"context": "chunks", "chunks": 2, "chunk_sentences": 3, "stride": 2, "reranked": False}


def record() -> dict[str, Any]:
    one = said("", True, True, True, " cellist.")
    return {
        "title": "Marta", "model": "starter", "base": "r0", "revision": "r2",
        "facts": [],
        "stages": [{"name": "write", "seconds": 431.0, "tokens": None, "memory": 1_400_000_000}],
        "proof": {
            "protocol": {"max_new_tokens": 12, "prompts": 200, "texts": "held-out", "text_tokens": 4096,
                         "unrelated_prompts": 48},
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
            "drift": {"preserved": 0.975, "kl": 0.0042, "perplexity_before": 20.0, "perplexity_after": 20.2,
                      "leakage_rate": 0.25, "prompts": 200,
                      "leakage": [{"kind": "same_last_name", "pairs": 4, "first_token": 2, "whole": 1}]},
        },
        "answers": [
            {"baseline": "edited", "protocol": {"context": "none"} | ANSWERS, "setup_seconds": 431.0,
             "memory": 1_200_000_000,
             "questions": [{"question": "What is Marta?", "answers": ["cellist", "Reykjavik"], "said": "A cellist.",
                            "held": 1, "judge": 2, "seconds": 0.5, "tokens": 20, "ended": False}]},
            {"baseline": "retrieval", "protocol": CHUNKS | ANSWERS, "setup_seconds": 0.001,
             "memory": None,
             "questions": [{"question": "What is Marta?", "answers": ["cellist", "Reykjavik"],
                            "said": "A cellist in Reykjavik.", "held": 2, "judge": None, "seconds": 1.5,
                            "tokens": 120}]},
        ],
    }  # fmt: skip


GOLDEN = """# Marta in starter

## Revisions

From r0 to r2.

## Learned facts

| prompts | measure | before | after |
| --- | --- | --- | --- |
| prompts of the facts | first token correct | - | 2 of 2 |
| prompts of the facts | whole object, teacher-forced | 0 of 2 | 1 of 2 |
| prompts of the facts | free generation starts with it | 0 of 2 | 1 of 2 |
| evaluation paraphrases | first token correct | - | 1 of 1 |
| evaluation paraphrases | whole object, teacher-forced | - | 0 of 1 |
| evaluation paraphrases | free generation starts with it | - | 0 of 1 |
| prompts of the facts | judge, 0 to 3 | - | 3.00 |

## Facts

| # | prompt | object | first | whole | free | paraphrases | judge | completion |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | Marta is a | cellist | ✓ | ✓ | ✓ | 0 of 1 | 3 | cellist. |
| 2 | Marta lives in | Reykjavik | ✓ | · | · | - | - | Reykja |

## Evaluation paraphrases

Training never uses these prompts.

| # | prompt | first | whole | free | completion |
| --- | --- | --- | --- | --- | --- |
| 1 | By trade, Marta is a | ✓ | · | · | chef |

## Retention

● correct by teacher forcing and in free generation, ◐ by one of them, ○ by neither, · not written yet.

| after edit | requests | whole | free | each fact, in order |
| --- | --- | --- | --- | --- |
| r1 | 1 | 1 | 1 | ●· |
| r2 | 2 | 1 | 0 | ◐○ |

## Side effects

| value | measure |
| --- | --- |
| 97.5 % of 200 | other prompts with an unchanged first choice |
| 0.0042 nats | KL divergence on the same prompts |
| 20.20, +1.0 % | perplexity of other text, 20.00 before |
| 25.0 % | leakage: prompts of unrelated subjects whose completion is now the object |
| 1 of 4 | leakage to people with the same last name; first token of the object: 2 |

## Baselines

parts: mean share of the answer's parts that the reply contains; in full: questions with every part; setup: time \
before the first question; s and tokens (input and output): means per question.

| baseline |  | parts | in full | judge | setup | s | tokens | memory |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| edited | █████····· | 50.0 % | 0 of 1 | 2.00 | 7:11 | 0.50 | 20 | 1.2 GB |
| retrieval | ██████████ | 100.0 % | 1 of 1 | - | under 0.01 s | 1.50 | 120 | - |

## Questions

| question (parts of a full answer) | baseline | parts | reply |
| --- | --- | --- | --- |
| What is Marta? (cellist; Reykjavik) | edited | 1/2 | A cellist. … (token limit) |
|  | retrieval | 2/2 | A cellist in Reykjavik. |

## Costs

| stage | time | tokens | memory |
| --- | --- | --- | --- |
| write | 7:11 | - | 1.4 GB |

## Protocol

Proof: first token and whole object are first choices under teacher forcing. In free generation (12 new tokens, \
greedy) the completion starts with the object as whole words. KL is that of after from before, over 200 other prompts. \
Perplexity is exp(mean NLL) of 4096 tokens of held-out texts. Leakage is measured on 48 prompts of unrelated subjects: \
the whole object is newly the first choice.

edited: the question alone.

retrieval: the 2 best chunks before the question, best first: 3 sentences each, stride 2, the title in front, ranked \
by BM25.

All baselines: a user turn of the chat template; greedy, to the end of the turn or 64 tokens. The reply must contain \
a part as whole words. Each question is timed alone, after a warm-up.
"""


def test_markdown_matches_the_golden_report() -> None:
    assert to_markdown(record()) == GOLDEN


def poisoned(value: Any) -> Any:
    """The record with hostile text appended to every string."""
    if isinstance(value, dict):
        return {name: one if name == "kind" else poisoned(one) for name, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one) for one in value]
    return value + HOSTILE if isinstance(value, str) else value


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_is_self_contained_and_runs_nothing(tmp_path: Path) -> None:
    clean, hostile = Page(to_html(record())), Page(to_html(poisoned(record())))
    # Hostile text adds no tag and no attribute; only the bytes of the pictures differ.
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
    assert "<script>alert(1)</script>" in hostile.text, "the page shows it as text"
    assert not any(char in hostile.text for char in "\x1b\u202e")
    assert any(attributes.get("content", "").startswith("default-src 'none'") for _, attributes in clean.tags)  # type: ignore[union-attr]
    assert to_html(record()) == to_html(copy.deepcopy(record())), "the same record must give the same file"


def test_markdown_and_terminal_escape_hostile_text() -> None:
    clean, hostile = to_markdown(record()), to_markdown(poisoned(record()))
    # Hostile text adds no line, cell, tag, code or picture.
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


def test_report_fits_80_columns() -> None:
    shown = shown_at(80, record())
    assert max(map(cell_len, shown.splitlines())) <= 80
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert "edited █████····· 50.0 % 0 of 1 2.00 7:11 0.50 20 1.2 GB" in lines
    at = lines.index("1 ✓ ✓ ✓ 0 of 1 3 Marta is a")
    assert lines[at + 1 : at + 3] == ["cellist", "cellist."]
    assert "r2 2 1 0 ◐○" in lines


def test_stopped_run_has_fewer_sections() -> None:
    begun = record() | {"proof": None, "answers": []}
    assert [section.title for section in sections(begun)] == ["Revisions", "Costs"]
    counted = record()
    for entry in counted["proof"]["retention"]:
        del entry["facts"]
    assert "| r2 | 2 | 1 | 0 |\n" in to_markdown(counted)
    for made in (begun, counted):
        assert to_html(made).endswith("</html>\n") and shown_at(80, made)


def test_save_selects_the_form_by_suffix(tmp_path: Path) -> None:
    begun = record() | {"proof": None, "answers": []}
    for name, made in (("report.md", to_markdown(begun)), ("report.HTML", to_html(begun))):
        save_report(tmp_path / name, begun)
        assert (tmp_path / name).read_text(encoding="utf-8") == made
    with pytest.raises(InputError, match=r"\.md or \.html"):
        save_report(tmp_path / "report.pdf", begun)
    with pytest.raises(InputError, match="does not exist"):
        save_report(tmp_path / "none" / "report.md", begun)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.HTML", "report.md"]
