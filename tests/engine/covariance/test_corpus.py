"""A corpus gives its documents in the same order at each call. A source without text is refused."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest

from retcon.engine.covariance.corpus import Corpus, open_corpus
from retcon.engine.errors import InputError

TEXTS = ["Paris is in France.", "Rome, the city", "Zürich  is not a capital"]


@pytest.fixture(autouse=True)
def private_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_texts(folder: Path, suffix: str, column: str = "text") -> Path:
    path = folder / f"texts{suffix}"
    table = pd.DataFrame({column: TEXTS, "number": [1, 2, 3]})
    match suffix:
        case ".txt":
            path.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps({column: text}) + "\n" for text in TEXTS))
        case ".json":
            path.write_text(json.dumps([{column: text} for text in TEXTS]))
        case ".csv":
            table.to_csv(path, index=False)
        case ".parquet":
            table.to_parquet(path)
    return path


def test_shipped_texts() -> None:
    one, two = open_corpus("shipped"), open_corpus("shipped")
    texts = list(one.documents(1))
    assert len(texts) == 300
    assert all(isinstance(text, str) and text.strip() for text in texts)
    assert len(set(texts)) == 300
    assert one.revision == two.revision
    assert len(one.revision) == 64
    assert texts == list(two.documents(1))
    assert texts != list(one.documents(2))
    assert sorted(texts) == sorted(one.documents(2))


@pytest.mark.parametrize("suffix", [".txt", ".jsonl", ".json", ".csv", ".parquet"])
def test_file_of_texts(suffix: str, tmp_path: Path) -> None:
    path = write_texts(tmp_path, suffix)
    corpus = open_corpus(str(path))
    assert sorted(corpus.documents(1)) == sorted(TEXTS)
    assert list(corpus.documents(5)) == list(open_corpus(str(path)).documents(5))
    assert corpus.revision == hashlib.sha256(path.read_bytes()).hexdigest()
    assert corpus.source == str(path)


def test_revision_changes_with_content(tmp_path: Path) -> None:
    path = write_texts(tmp_path, ".jsonl")
    before = open_corpus(str(path))
    path.write_text(json.dumps({"text": "Berlin is new"}) + "\n")
    after = open_corpus(str(path))
    assert list(after.documents(1)) == ["Berlin is new"]
    assert after.revision != before.revision


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
def test_file_without_text_column_is_refused(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no column 'text'.*body"):
        open_corpus(str(write_texts(tmp_path, suffix, column="body")))


@pytest.mark.parametrize("name", ["texts.txt", "./texts", "/nowhere/texts", "~/no-such-texts.parquet"])
def test_missing_file_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_corpus(name)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.txt", ""),
        ("blank.txt", "\n \n\n"),
        ("empty.jsonl", ""),
        ("empty.csv", ""),
        ("head.csv", "text\n"),
        ("nulls.jsonl", '{"text": null}\n'),
        ("empty.parquet", ""),
        ("broken.jsonl", '{"text": "a"\n'),
    ],
)
def test_file_without_text_is_refused(name: str, content: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=name):
        open_corpus(str(tmp_path / name))


def test_unsupported_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "texts.docx").write_text("x")
    with pytest.raises(InputError, match="not a supported text file"):
        open_corpus(str(tmp_path / "texts.docx"))


class FakeStream:
    """A data set with the interface of a streamed hub data set."""

    def __init__(self, *rows: dict[str, object]) -> None:
        self.rows = rows

    def shuffle(self, **_how: int) -> "FakeStream":
        return self

    def __iter__(self) -> Iterator[dict[str, object]]:
        return iter(self.rows)


def test_stream_without_text_column_is_refused() -> None:
    with pytest.raises(InputError, match=r"org/set has no column 'text'; its columns are body, id"):
        list(Corpus("org/set", "c0ffee", FakeStream({"body": "x", "id": 1})).documents(1))


def test_stream_skips_rows_without_text() -> None:
    rows = FakeStream({"text": None}, {"text": "Paris"}, {"text": "  "}, {"text": "Rome"})
    assert list(Corpus("org/set", "c0ffee", rows).documents(1)) == ["Paris", "Rome"]
