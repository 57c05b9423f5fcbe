"""Passages: the list, and the record of one passage."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .filters import Field
from .rows import Listing, list_records


@dataclass(frozen=True)
class PassageRow:
    """One line of the list: `correct` of `facts` facts by free generation; both are 0 before the proof."""

    id: int
    model: str
    title: str
    method: str
    created: datetime
    correct: int
    facts: int


@dataclass(frozen=True)
class PassageView:
    """One passage; `record` is the input of its report, as in `retcon passage show --json`."""

    id: int
    record: dict[str, Any]


_JSON = ("revisions", "facts", "questions", "problems", "stages", "proof", "answers")
_MODEL = "LEFT JOIN model AS m ON m.id = p.model_id"


def _build_view(*values: Any) -> PassageView:
    id, model, title, base, *rest = values
    record = dict(zip(_JSON, map(json.loads, rest), strict=True))
    last = (record["revisions"] or [None])[-1]
    return PassageView(id, {"title": title, "model": model, "base": base, "revision": last} | record)


# Proofs and answers are long, so SQLite counts the facts in them for the list.
_OF_PROOF = "FROM json_each(iif(json_valid(p.proof), p.proof, '{}'), '$.facts') AS f"
PASSAGES = list_records(
    PassageRow,
    "passage AS p",
    {
        "model": "m.name",
        "correct": f"(SELECT coalesce(sum(json_extract(f.value, '$.after.free')), 0) {_OF_PROOF})",
        "facts": f"(SELECT count(*) {_OF_PROOF})",
    },
    joins=_MODEL,
    fields={
        "id": Field("p.id", "number"),
        "model": Field("m.name"),
        "title": Field("p.title"),
        "method": Field("p.method"),
        "when": Field("p.created", "time"),
    },
)
PASSAGE = Listing(
    table="passage AS p",
    key="p.id",
    joins=_MODEL,
    columns=("p.id", "m.name", "p.title", "p.revision", *(f"p.{name}" for name in _JSON)),
    build=_build_view,
)
