"""Completions are greedy and do not depend on the batch. Context templates repeat with the seed."""

from collections.abc import Callable

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from retcon.engine.errors import InputError
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.generation import answer, complete, sample_contexts

Decoders = Callable[..., Decoder]
PROMPTS = ["Paris is", "The Eiffel Tower is located in the city of", "you"]


@torch.no_grad()
def complete_greedily(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int
) -> str:
    """Greedy completion with a full forward pass per token and no cache."""
    ids = tokenizer(prompt)["input_ids"]
    prompt_length = len(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return tokenizer.decode(ids[prompt_length:], skip_special_tokens=True)


@pytest.fixture
def endless_model(own_decoder_of: Decoders) -> Callable[[str], PreTrainedModel]:
    """family -> a model without an end token, so that all completions have full length."""

    def model(family: str) -> PreTrainedModel:
        made = own_decoder_of(family).model
        made.generation_config = GenerationConfig()
        made.generation_config.eos_token_id = None
        return made

    return model


@pytest.mark.parametrize("family", ["gpt2", "llama", "bloom", "gemma2", "opt", "falcon-alibi"])
def test_completions_do_not_depend_on_the_batch(
    family: str, endless_model: Callable[[str], PreTrainedModel], words_after_start: PreTrainedTokenizerBase
) -> None:
    model = endless_model(family)
    expected = [complete_greedily(model, words_after_start, prompt, 6) for prompt in PROMPTS]
    assert complete(model, words_after_start, PROMPTS, 6) == expected


def test_sampling_settings_of_the_model_are_ignored(
    endless_model: Callable[[str], PreTrainedModel], words: PreTrainedTokenizerBase
) -> None:
    model = endless_model("llama")
    plain = complete(model, words, PROMPTS, 8)
    model.generation_config.update(
        do_sample=True, temperature=5.0, repetition_penalty=9.0, no_repeat_ngram_size=1
    )
    assert complete(model, words, PROMPTS, 8) == plain


def test_many_prompts_run_in_several_batches(
    endless_model: Callable[[str], PreTrainedModel], words: PreTrainedTokenizerBase
) -> None:
    model = endless_model("gpt2")
    assert complete(model, words, PROMPTS * 7, 3) == complete(model, words, PROMPTS, 3) * 7
    assert complete(model, words, [], 3) == []


def test_next_tokens_are_the_most_likely(
    endless_model: Callable[[str], PreTrainedModel], words: PreTrainedTokenizerBase
) -> None:
    model = endless_model("qwen2")
    result = answer(model, words, PROMPTS[1], max_new_tokens=4, top=3)
    with torch.no_grad():
        expected = (
            model(torch.tensor([words(PROMPTS[1])["input_ids"]]))
            .logits[0, -1]
            .softmax(-1)
            .sort(descending=True)
        )
    assert [token.token for token in result.next] == [
        words.decode([i]) for i in expected.indices[:3].tolist()
    ]
    assert [token.probability for token in result.next] == pytest.approx(expected.values[:3].tolist())
    assert result.completion == complete(model, words, [PROMPTS[1]], 4)[0]


def test_empty_prompt_is_refused(
    endless_model: Callable[[str], PreTrainedModel], words: PreTrainedTokenizerBase
) -> None:
    with pytest.raises(InputError):
        answer(endless_model("gpt2"), words, "")


def test_contexts_repeat_with_the_seed(
    endless_model: Callable[[str], PreTrainedModel], words: PreTrainedTokenizerBase
) -> None:
    model = endless_model("llama")
    with torch.no_grad():  # make braces likely: they are words of this vocabulary
        model.lm_head.weight[words.convert_tokens_to_ids(["{", "}"])] *= 4
    torch.manual_seed(11)
    undisturbed = torch.rand(3)
    torch.manual_seed(11)
    texts = sample_contexts(model, words, 7, seed=3)
    assert torch.equal(torch.rand(3), undisturbed), "drawing contexts moved the caller's random numbers"
    assert texts[0] == "{}"
    assert len(texts) == 8
    for text in texts[1:]:
        assert text.endswith(". {}")
        assert (text.count("{"), text.count("}")) == (1, 1)
    assert texts == sample_contexts(model, words, 7, seed=3)
    assert texts != sample_contexts(model, words, 7, seed=4)
