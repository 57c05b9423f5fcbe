"""Adapters and checkpoints: PEFT merges an adapter to the checkpoint's bits, and disables it to the base's."""

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from retcon.engine.errors import InputError
from retcon.engine.exports.adapter import load_adapter, merge, write_adapter
from retcon.engine.exports.checkpoint import write_checkpoint
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.delta import Delta, Factors, Materializer, is_transposed
from retcon.tests.helpers.families import FAMILIES

IDS = torch.arange(5, 20)[None]


def random_delta(model: PreTrainedModel, names: list[str], ranks: tuple[int, ...] = (1, 3, 8)) -> Delta:
    generator = torch.Generator().manual_seed(1)
    delta = {}
    for name, rank in zip(names, ranks, strict=False):
        shape = tuple(model.get_parameter(name).shape)
        out, into = shape[::-1] if is_transposed(model, name) else shape
        delta[name] = Factors(
            0.05 * torch.randn(out, rank, generator=generator),
            0.05 * torch.randn(rank, into, generator=generator),
        )
    return delta


def matrices(decoder: Decoder) -> list[str]:
    expected = decoder.anatomy.matrix + ".weight"
    return [name for name, _ in decoder.model.named_parameters() if name.endswith(expected)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_merged_adapter_equals_edited_weights(
    family: str, dtype: torch.dtype, own_decoder_of: Callable[..., Decoder], tmp_path: Path
) -> None:
    decoder = own_decoder_of(family, dtype)
    edited, base = decoder.model, copy.deepcopy(decoder.model)
    delta = random_delta(edited, matrices(decoder))
    Materializer(edited).set(delta)
    write_adapter(delta, edited, tmp_path, "somebody/base", "c0ffee")
    with torch.no_grad():
        plain = base(IDS).logits
        adapted = load_adapter(copy.deepcopy(base), tmp_path)
        with adapted.disable_adapter():
            assert torch.equal(adapted(IDS).logits, plain)
        tolerance = 1e-4 if dtype == torch.float32 else 0.1
        unmerged = adapted(IDS).logits
        assert (unmerged - edited(IDS).logits).abs().max() < tolerance
        assert not torch.equal(unmerged, plain)
        merged = dict(merge(adapted).named_parameters())
    expected = dict(edited.named_parameters())
    assert merged.keys() == expected.keys()
    assert all(torch.equal(merged[name], expected[name]) for name in expected)
    assert all(not torch.equal(expected[name], base.get_parameter(name)) for name in delta)


def test_adapter_config(own_decoder_of: Callable[..., Decoder], tmp_path: Path) -> None:
    decoder = own_decoder_of("gpt2")
    delta = random_delta(decoder.model, matrices(decoder))
    write_adapter(delta, decoder.model, tmp_path, "somebody/base", "c0ffee")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "somebody/base" and config["revision"] == "c0ffee"
    assert config["fan_in_fan_out"] is True and config["use_rslora"] is False and config["lora_dropout"] == 0
    assert sorted(config["rank_pattern"].values()) == [1, 3, 8]
    assert config["rank_pattern"] == config["alpha_pattern"], "the scale is exactly 1"
    assert config["target_modules"] == [f"transformer.h.{n}.mlp.c_proj" for n in range(3)]


def test_deltas_that_no_adapter_can_hold(own_decoder_of: Callable[..., Decoder], tmp_path: Path) -> None:
    model = own_decoder_of("gpt2").model
    with pytest.raises(InputError, match="no edits"):
        write_adapter({}, model, tmp_path, "base")
    both = random_delta(model, ["transformer.h.0.mlp.c_proj.weight", "lm_head.weight"])
    with pytest.raises(InputError, match="both orientations"):
        write_adapter(both, model, tmp_path, "base")
    bias = {"transformer.h.0.mlp.c_proj.bias": Factors(torch.ones(32, 1), torch.ones(1, 1))}
    with pytest.raises(InputError, match="not the weight"):
        write_adapter(bias, model, tmp_path, "base")
    assert list(tmp_path.iterdir()) == []


def test_checkpoint_in_shards(
    own_decoder_of: Callable[..., Decoder], words: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    base, folder = tmp_path / "base", tmp_path / "export"
    base.mkdir()
    # transformers reads this config of Llama 2, and refuses to write it.
    (base / "generation_config.json").write_text(json.dumps({"do_sample": False, "temperature": 0.9}))
    (base / "LICENSE").write_text("you may")
    model = own_decoder_of("llama").model
    own = model.generation_config
    write_checkpoint(model, words, base, folder, 40_000)
    assert len(list(folder.glob("model-0*.safetensors"))) > 2
    assert json.loads((folder / "generation_config.json").read_text())["temperature"] == 0.9
    assert (folder / "LICENSE").read_text() == "you may"
    assert model.generation_config is own
    again = AutoModelForCausalLM.from_pretrained(folder)
    assert all(torch.equal(a, model.get_parameter(name)) for name, a in again.named_parameters())
