"""Texts of the published attribute_snippets.json about subjects that have a (relation, target)."""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..catalog.tables import Fact
from ..errors import InputError

_FORM = 'a list of {"relation_id", "target_id", "samples": [{"name", "text"}]}'


def add_references(facts: Sequence[Fact], path: Path) -> int:
    """Add the texts of its relation and new target to each fact. Returns the number of facts with texts.

    Raises InputError if the file has another form, or has no text for any of the facts.
    """
    texts = _read(path)
    for fact in facts:
        key = (fact.origin.get("relation_id"), fact.origin.get("target_new_id"))
        fact.references = texts.get(key, fact.references)
    found = sum(bool(fact.references) for fact in facts)
    if not found:
        raise InputError(
            f"{path} has no text for any fact. Texts are found by relation_id and the id of target_new, which "
            "only CounterFact has."
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
        raise InputError(f"{path} has another form: expected {_FORM}.") from error
    return texts
