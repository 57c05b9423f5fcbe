"""Tiny random models of every supported family.

Weights are larger than the libraries' defaults, so that wrong results differ clearly from right ones.
"""

from functools import cache

import torch
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTJConfig,
    GPTNeoConfig,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
    StableLmConfig,
)

VOCABULARY = 96
_GQA = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 56,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MHA = {**_GQA, "num_key_value_heads": 4}
_GEMMA = {**_GQA, "head_dim": 8, "sliding_window": 4, "query_pre_attn_scalar": 8}

CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=128),
    "gptj": GPTJConfig(vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=128, rotary_dim=4),
    "gpt_neox": GPTNeoXConfig(**_MHA),
    "phi": PhiConfig(**_MHA),
    "phi3": Phi3Config(**_GQA),
    "llama": LlamaConfig(**_GQA),
    "mistral": MistralConfig(**_GQA, sliding_window=4),
    "qwen2": Qwen2Config(**_GQA),
    "qwen3": Qwen3Config(**_GQA, head_dim=8),
    "gemma2": Gemma2Config(**_GEMMA),
    "gemma3": Gemma3TextConfig(**_GEMMA),
    "olmo2": Olmo2Config(**_GQA),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        ffn_dim=56,
        num_hidden_layers=4,
        num_attention_heads=4,
        max_position_embeddings=128,
        word_embed_proj_dim=32,
    ),
    "cohere": CohereConfig(**_GQA),
    # Scaled residuals and logits: the block does not add the outputs of its parts unscaled.
    "granite": GraniteConfig(**_GQA, residual_multiplier=0.4, logits_scaling=3.0),
    "gpt_neo": GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=4,
        num_heads=4,
        attention_types=[[["global", "local"], 2]],
        window_size=4,
        max_position_embeddings=128,
    ),
    "bloom": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=4, n_head=4),
    "falcon": FalconConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, num_attention_heads=4),
    "falcon-alibi": FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        alibi=True,
        parallel_attn=False,
        multi_query=False,
    ),
    "falcon-new": FalconConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        new_decoder_architecture=True,
        num_kv_heads=2,
    ),
    "stablelm": StableLmConfig(**_MHA),
    "stablelm-parallel": StableLmConfig(**_MHA, use_parallel_residual=True),
}
FAMILIES = sorted(CONFIGS)
# Six families that differ in what matters for an edit or a trace: transposed weights, parallel parts, norms after the
# parts, biases with ALiBi, scaled residuals, and none of these. Use them where the basis is tested in all families.
UNLIKE = ["bloom", "gemma3", "gpt2", "gptj", "granite", "llama"]


@cache
def tiny_model(family: str) -> PreTrainedModel:
    """A float32 model of four layers, cached. Do not change its weights."""
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                nn.init.normal_(parameter, std=0.12)
    return model
