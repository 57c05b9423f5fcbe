"""Texts of the published attribute_snippets.json, on subjects of which a (relation, target) holds."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..catalog.tables import Fact
from ..errors import InputError

_FORM = 'a list of {"relation_id", "target_id", "samples": [{"name", "text"}]}'


def add_references(facts: Sequence[Fact], path: Path) -> int:
    """Give each fact the texts of its relation and its new target; how many facts have some.

    Raises InputError if the file is of another form, or has texts for none of them.
    """
    texts = _read(path)
    for fact in facts:
        key = (fact.origin.get("relation_id"), fact.origin.get("target_new_id"))
        fact.references = texts.get(key, fact.references)
    found = sum(bool(fact.references) for fact in facts)
    if not found:
        raise InputError(
            f"{path} has no text for any fact: they are found by relation_id and the id of target_new, which "
            "CounterFact's records have."
        )
    return found


def _read(path: Path) -> dict[tuple[Any, Any], list[dict[str, Any]]]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}): give the path of a file of texts."
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: expected {_FORM}.") from error
    texts: dict[tuple[Any, Any], list[dict[str, Any]]] = defaultdict(list)
    try:
        for entry in data:
            key = (entry["relation_id"], entry["target_id"])
            texts[key] += [{"name": str(one["name"]), "text": str(one["text"])} for one in entry["samples"]]
    except (TypeError, KeyError) as error:
        raise InputError(f"{path} is of another form: expected {_FORM}.") from error
    return texts
