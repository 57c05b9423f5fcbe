"""Read a file of records: JSON, JSON lines or CSV. `formats` turns records into facts."""

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class Record:
    """One record, and its place in words: `facts.csv, record 3 (line 4)`."""

    where: str
    fields: dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """The records of a file, at least one. The suffix decides the format, or else the first character.

    Raises InputError with the file, the line and the column.
    """
    text = _read_text(path)
    begin = text.lstrip()[:1]
    if not begin:
        raise InputError(f"{path} is empty: it must contain at least one fact.")
    suffix = path.suffix.lower()
    if suffix in (".jsonl", ".ndjson"):
        records = _json_lines(path, text)
    elif suffix in (".csv", ".tsv"):
        records = _csv(path, text)
    elif suffix == ".json" or begin in "[{":
        records = _json(path, text)
    else:
        records = _csv(path, text)
    if not records:
        raise InputError(f"{path} has no records: it must contain at least one fact.")
    return records


def _read_text(path: Path) -> str:
    try:
        # utf-8-sig: spreadsheets write a byte order mark before CSV.
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x}): save it as UTF-8."
        ) from error
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give the path of a facts file."
        ) from error


def _json(path: Path, text: str) -> list[Record]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        # Many files of JSON lines are named .json.
        if error.msg == "Extra data" and text.lstrip().startswith("{"):
            return _json_lines(path, text)
        raise InputError(
            f"{path}, line {error.lineno}, column {error.colno}: this is not JSON ({error.msg})."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} {_too_much(error)}: expected a list of objects.") from error
    if isinstance(data, dict) and "subject" in data:
        data = [data]
    if not isinstance(data, list):
        raise InputError(f"{path} contains {json_kind(data)}: expected a list of objects, one per fact.")
    return [_record(f"{path}, record {number}", item) for number, item in enumerate(data, start=1)]


def _json_lines(path: Path, text: str) -> list[Record]:
    records: list[Record] = []
    # Not splitlines(): JSON strings may contain U+2028 and similar characters.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}, record {len(records) + 1} (line {number})"
        try:
            item = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path}, line {number}, column {error.colno}: this is not JSON ({error.msg}); "
                "expected one JSON object per line."
            ) from error
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where} {_too_much(error)}: expected one JSON object per line.") from error
        records.append(_record(where, item))
    return records


def _too_much(error: Exception) -> str:
    """Why Python's JSON reader cannot read a file."""
    return (
        "is nested too deeply"
        if isinstance(error, RecursionError)
        else "contains a number with too many digits"
    )


def _csv(path: Path, text: str) -> list[Record]:
    header = text.lstrip("\r\n").split("\n", 1)[0]
    # The most frequent separator of the header; a comma if there is none.
    separator = max(",;\t", key=header.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    records: list[Record] = []
    names: list[str] = []
    try:
        for row in reader:
            line = reader.line_num
            if not any(cell.strip() for cell in row):
                continue
            if not names:
                names = [cell.strip() for cell in row]
                _check_header(path, line, names)
                continue
            where = f"{path}, record {len(records) + 1} (line {line})"
            if len(row) != len(names):
                raise InputError(
                    f"{where}: {len(row)} cells, but the header names {len(names)}: quote a cell that "
                    f"contains {separator!r}."
                )
            # An empty cell is a missing field. An empty target_new stays, and `formats` rejects it as a mistake.
            cells = zip(names, row, strict=True)
            fields = {name: cell for name, cell in cells if cell.strip() or name == "target_new"}
            records.append(Record(where, fields))
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: this is not CSV ({error}).") from error
    return records


def _check_header(path: Path, line: int, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{path}, line {line}: the column {twice[0]!r} occurs twice: name each column once.")
    if "" in names:
        raise InputError(f"{path}, line {line}: column {names.index('') + 1} has no name: name each column.")


def _record(where: str, item: object) -> Record:
    if not isinstance(item, dict):
        raise InputError(f"{where}: this is {json_kind(item)}: expected an object with subject and prompt.")
    return Record(where, item)


def json_kind(value: object) -> str:
    """The type of a value in the words of JSON."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, str):
        return "a string"
    if isinstance(value, int | float):
        return "a number"
    return "a list" if isinstance(value, list) else "an object"
