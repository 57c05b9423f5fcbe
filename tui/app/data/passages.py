"""Passages as the screens show them."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .filters import Field
from .rows import Listing, parse_time


@dataclass(frozen=True)
class PassageRow:
    """One line of the list: `held` of `asked` facts hold by free generation; none is asked before the proof."""

    id: int
    model: str
    title: str
    method: str
    created: datetime
    held: int
    asked: int


@dataclass(frozen=True)
class PassageView:
    """One passage whole: `record` is what a report is made from, as `retcon passage show --json` has it."""

    id: int
    record: dict[str, Any]


_JSON = ("revisions", "facts", "questions", "problems", "stages", "proof", "answers")
_MODEL = "LEFT JOIN model AS m ON m.id = p.model_id"


def _row(*values: Any) -> PassageRow:
    id, model, title, method, created, held, asked = values
    return PassageRow(id, model, title, method, parse_time(created), held or 0, asked or 0)


def _view(*values: Any) -> PassageView:
    id, model, title, base, *rest = values
    found = dict(zip(_JSON, map(json.loads, rest), strict=True))
    last = (found["revisions"] or [None])[-1]
    return PassageView(id, {"title": title, "model": model, "base": base, "revision": last} | found)


# Proofs and answers are long: the list has SQLite count in them, and does not read them.
PASSAGES = Listing(
    table="passage AS p",
    key="p.id",
    joins=_MODEL,
    columns=(
        "p.id", "m.name", "p.title", "p.method", "p.created",
        "CASE WHEN json_valid(p.proof) THEN (SELECT sum(json_extract(f.value, '$.after.free')) "
        "FROM json_each(p.proof, '$.facts') AS f) END",
        "CASE WHEN json_valid(p.proof) THEN (SELECT count(*) FROM json_each(p.proof, '$.facts')) END",
    ),
    build=_row,
    fields={
        "id": Field("p.id", "number"),
        "model": Field("m.name"),
        "title": Field("p.title"),
        "method": Field("p.method"),
        "when": Field("p.created", "time"),
    },
)  # fmt: skip
PASSAGE = Listing(
    table="passage AS p",
    key="p.id",
    joins=_MODEL,
    columns=("p.id", "m.name", "p.title", "p.revision", *(f"p.{name}" for name in _JSON)),
    build=_view,
    fields={},
)
