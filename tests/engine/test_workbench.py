"""Trace, edit, evaluate and undo on one model in memory, without a catalog."""

from pathlib import Path

import pytest

from retcon.engine import workbench
from retcon.engine.covariance.corpus import open_corpus
from retcon.engine.errors import InputError
from retcon.engine.model.loading import hash_parameters
from retcon.engine.workbench import Case, Request, Workbench
from retcon.tests.helpers.families import tiny_model
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer

PROMPT, SUBJECT = "The Eiffel Tower is located in the city of", "Eiffel Tower"
FACT = Request(SUBJECT, "The {} is located in the city of", "Rome")


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workbench:
    text = "The Eiffel Tower is located in the city of Paris Rome Berlin France Italy born he she plays a"
    words = text.split()
    rows = [" ".join(words[(3 * n + n // 5 * i) % len(words)] for i in range(30)) for n in range(120)]
    texts = tmp_path / "texts.txt"
    texts.write_text("\n\n".join(rows))
    # The vocabulary of the tiny model has none of the words of the shipped texts.
    monkeypatch.setattr(workbench, "open_corpus", lambda _source: open_corpus(str(texts)))
    return Workbench(tiny_model("llama"), word_tokenizer(start=True))


def test_undo_restores_bits(bench: Workbench) -> None:
    model = bench.decoder.model
    before = hash_parameters(model)
    result = bench.trace(PROMPT, SUBJECT, kinds=["mlp"], samples=2, noise="0.4")
    last = result.scores["mlp"][result.located.last]
    layer = bench.propose_layer(result)
    assert last[layer] == max(value for value in last if value is not None)
    case = Case(PROMPT, "Rome", "Paris")
    old = bench.evaluate([case], max_new_tokens=2)
    first = bench.edit([FACT], layer=2, max_tokens=2500)
    once = hash_parameters(model)
    assert list(first) == ["model.layers.2.mlp.down_proj.weight"]
    assert {name for name in before if before[name] != once[name]} == set(first)
    assert bench.evaluate([case], max_new_tokens=2)["EM"].value != old["EM"].value
    # The second edit comes on top of the first; its second moment is of the base.
    bench.edit([Request("Berlin", "{} is in", "Italy")], layer=1, max_tokens=2500)
    assert len(bench.edits) == 2 and hash_parameters(model) != once
    bench.undo()
    assert hash_parameters(model) == once
    bench.undo()
    assert hash_parameters(model) == before


def test_errors_name_the_fault(bench: Workbench) -> None:
    with pytest.raises(InputError, match="unknown method 'grace'"):
        bench.edit([FACT], "grace")
    with pytest.raises(InputError, match="give the layer"):
        bench.edit([FACT])
    result = bench.trace(PROMPT, SUBJECT, kinds=["attn"], samples=1, noise="0.4")
    with pytest.raises(InputError, match="trace mlp or hidden"):
        bench.propose_layer(result)
    assert bench.edits == []
