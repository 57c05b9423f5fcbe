"""Passages as the screens show them."""

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .filters import Field
from .rows import Listing, moment


@dataclass(frozen=True)
class PassageView:
    """One passage; `record` is what a report is made from, as `retcon passage show --json` has it."""

    id: int
    model: str
    title: str
    method: str
    created: datetime
    record: dict[str, Any]

    @property
    def held(self) -> str:
        """How many facts hold by free generation, once that was asked."""
        facts = self.record["proof"].get("facts")
        return f"{sum(one['after']['free'] for one in facts)}/{len(facts)}" if facts else ""


_JSON = ("revisions", "facts", "questions", "problems", "stages", "proof", "answers")


def _view(*values: Any) -> PassageView:
    id, model, title, method, created, base, *rest = values
    found = dict(zip(_JSON, map(json.loads, rest), strict=True))
    record = {
        "title": title,
        "model": model,
        "base": base,
        "revision": (found["revisions"] or [None])[-1],
    } | found
    return PassageView(id, model, title, method, moment(created), record)


PASSAGES = Listing(
    table="passage AS p",
    key="p.id",
    joins="LEFT JOIN model AS m ON m.id = p.model_id",
    columns=(
        "p.id", "m.name", "p.title", "p.method", "p.created", "p.revision", *(f"p.{name}" for name in _JSON)
    ),
    build=_view,
    fields={
        "id": Field("p.id", "number"),
        "model": Field("m.name"),
        "title": Field("p.title"),
        "method": Field("p.method"),
        "when": Field("p.created", "time"),
    },
)  # fmt: skip
