"""The parts of every family are found. A model that cannot be edited is refused with the reason."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MixtralConfig,
    Qwen3MoeConfig,
    T5Config,
)

from retcon.engine.errors import UnsupportedModel
from retcon.engine.model.anatomy import Anatomy, check_config, find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.tests.helpers.families import FAMILIES, tiny_model
from retcon.tests.helpers.untouched import assert_same_bits, assert_untouched, bits_of

# embedding, blocks, attention, mlp, matrix, mlp_norm, final_norm
_LLAMA = ("model.embed_tokens", "model.layers", "self_attn", "mlp", "mlp.down_proj", None, "model.norm")
_POST_NORM = (*_LLAMA[:5], "post_feedforward_layernorm", "model.norm")
_FALCON = (
    "transformer.word_embeddings", "transformer.h", "self_attention", "mlp", "mlp.dense_4h_to_h", None,
    "transformer.ln_f",
)  # fmt: skip
NAMES = {
    "bloom": (
        "transformer.word_embeddings", "transformer.h", "self_attention.dense", "mlp.dense_4h_to_h",
        "mlp.dense_4h_to_h", None, "transformer.ln_f",
    ),
    "falcon": _FALCON,
    "falcon-alibi": _FALCON,
    "falcon-new": _FALCON,
    "gemma2": _POST_NORM,
    "gemma3": _POST_NORM,
    "gpt2": ("transformer.wte", "transformer.h", "attn", "mlp", "mlp.c_proj", None, "transformer.ln_f"),
    "gpt_neox": (
        "gpt_neox.embed_in", "gpt_neox.layers", "attention", "mlp", "mlp.dense_4h_to_h", None,
        "gpt_neox.final_layer_norm",
    ),
    "gptj": ("transformer.wte", "transformer.h", "attn", "mlp", "mlp.fc_out", None, "transformer.ln_f"),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "olmo2": _POST_NORM,
    "opt": (
        "model.decoder.embed_tokens", "model.decoder.layers", "self_attn", "fc2", "fc2", None,
        "model.decoder.final_layer_norm",
    ),
    "phi3": _LLAMA,
    "cohere": _LLAMA,
    "granite": (*_LLAMA[:2], "self_attn.o_proj", "mlp.down_proj", *_LLAMA[4:]),
    "gpt_neo": ("transformer.wte", "transformer.h", "attn.attention", "mlp", "mlp.c_proj", None, "transformer.ln_f"),
    "phi": ("model.embed_tokens", "model.layers", "self_attn", "mlp", "mlp.fc2", None, "model.final_layernorm"),
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "stablelm": _LLAMA,
    "stablelm-parallel": _LLAMA,
}  # fmt: skip
PARALLEL = {"cohere", "falcon", "falcon-new", "gpt_neox", "gptj", "phi", "stablelm-parallel"}
TIED = {
    "bloom",
    "falcon",
    "falcon-alibi",
    "falcon-new",
    "gemma2",
    "gemma3",
    "gpt2",
    "gpt_neo",
    "opt",
    "cohere",
}
FOUR_TIMES_WIDE = {"bloom", "falcon", "falcon-alibi", "falcon-new", "gpt2", "gpt_neo", "gptj"}


@pytest.mark.parametrize("family", FAMILIES)
def test_finds_parts_of_every_family(family: str, decoder_of: Callable[[str], Decoder]) -> None:
    anatomy = decoder_of(family).anatomy
    embedding, blocks, attention, mlp, matrix, mlp_norm, final_norm = NAMES[family]
    assert anatomy == Anatomy(
        architecture=type(tiny_model(family)).__name__,
        embedding=embedding,
        blocks=blocks,
        layers=4,
        width=32,
        key_width=128 if family in FOUR_TIMES_WIDE else 56,
        attention=attention,
        mlp=mlp,
        matrix=matrix,
        matrix_kind="conv1d" if family == "gpt2" else "linear",
        mlp_norm=mlp_norm,
        final_norm=final_norm,
        head="embed_out" if hasattr(tiny_model(family), "embed_out") else "lm_head",
        tied_head=family in TIED,
        parallel=family in PARALLEL,
        additive=family != "granite",
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_probe_leaves_model_unchanged(family: str) -> None:
    model = tiny_model(family)
    before = bits_of(model)
    find_anatomy(model)
    assert_untouched(model)
    assert_same_bits(model, before)


@pytest.mark.parametrize("family", FAMILIES)
def test_half_precision_gives_the_same_anatomy(family: str, decoder_of: Callable[[str], Decoder]) -> None:
    rough = copy.deepcopy(tiny_model(family)).to(torch.bfloat16)
    assert find_anatomy(rough) == decoder_of(family).anatomy


def test_module_and_weight_names(decoder_of: Callable[[str], Decoder]) -> None:
    anatomy = decoder_of("opt").anatomy
    assert anatomy.module_name("attn", 2) == "model.decoder.layers.2.self_attn"
    assert anatomy.module_name("mlp", 0) == "model.decoder.layers.0.fc2"
    assert anatomy.weight_name(3) == "model.decoder.layers.3.fc2.weight"
    assert anatomy.weight_name(3) in dict(tiny_model("opt").named_parameters())


def test_round_trip_through_json(decoder_of: Callable[[str], Decoder]) -> None:
    anatomy = decoder_of("gemma2").anatomy
    assert Anatomy(**json.loads(json.dumps(asdict(anatomy)))) == anatomy


@pytest.mark.parametrize(
    ("config", "why"),
    [
        (T5Config(d_model=32, d_ff=56, num_layers=2, num_heads=4), "encoder-decoder"),
        (MixtralConfig(hidden_size=32, num_local_experts=4), r"experts \(num_local_experts=4\)"),
        (Qwen3MoeConfig(hidden_size=32, num_experts=8), r"experts \(num_local_experts=8\)"),
    ],
    ids=["encoder-decoder", "mixtral", "qwen3-moe"],
)
def test_config_check_names_the_reason(config: object, why: str) -> None:
    with pytest.raises(UnsupportedModel, match=why):
        check_config(config)


def test_config_with_one_mlp_passes() -> None:
    check_config(LlamaConfig(hidden_size=32))


def test_refuses_loaded_mixture_of_experts() -> None:
    config = MixtralConfig(
        vocab_size=96, hidden_size=32, intermediate_size=56, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    with pytest.raises(UnsupportedModel, match="experts"):
        find_anatomy(AutoModelForCausalLM.from_config(config).eval())
