"""Generate text: greedy completions, next-token probabilities, and the context templates of an edit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .limits import scaled_batch
from .tokens import decode_ids, encode_prompt, pad_aligned

# First words of the contexts, as in MEMIT (Meng et al. 2023). A context moves the key away from position 0.
_OPENINGS = ("The", "Therefore", "Because", "I", "You")
_CONTEXT_TOKENS = 10
_BATCH_PROMPTS = 16


@dataclass(frozen=True)
class NextToken:
    token: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """The greedy completion of a prompt and its most likely next tokens."""

    completion: str
    next: list[NextToken]


def complete(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str | list[int]],
    max_new_tokens: int,
) -> list[str]:
    """Greedy completions of prompts (texts or token ids) up to the model's end token, without the prompts."""
    texts: list[str] = []
    encoded = [encode_prompt(tokenizer, prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    config = _config(model, tokenizer, max_new_tokens=max_new_tokens, do_sample=False)
    size = scaled_batch(_BATCH_PROMPTS)
    for begin in range(0, len(encoded), size):
        rows = encoded[begin : begin + size]
        ids, mask = pad_aligned(rows, [len(row) - 1 for row in rows], model.device)
        out = _generate(model, ids, mask, config)
        texts += [decode_ids(tokenizer, row) for row in out[:, ids.shape[1] :].tolist()]
    return texts


@dataclass(frozen=True)
class Continuation:
    """The completion of one prompt: its text, its number of tokens, and whether it ends with an end token."""

    text: str
    tokens: int
    ended: bool


def continue_prompt(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: Sequence[int],
    max_new_tokens: int,
    processor: LogitsProcessor | None = None,
) -> Continuation:
    """The greedy completion of one prompt of token ids. `processor` changes the logits before each token is chosen."""
    config = _config(model, tokenizer, max_new_tokens=max_new_tokens, do_sample=False)
    ids = torch.tensor([list(prompt)], device=model.device)
    new = _generate(model, ids, torch.ones_like(ids), config, processor)[0, ids.shape[1] :].tolist()
    return Continuation(
        decode_ids(tokenizer, new), len(new), bool(new) and new[-1] in find_end_tokens(model, tokenizer)
    )


def sample(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    length: int,
    top_k: int,
    seed: int,
) -> list[str]:
    """Prompts with sampled continuations (from the `top_k` most likely tokens), `length` tokens in total.

    The same seed, prompts and device give the same texts.
    """
    rows = [encode_prompt(tokenizer, prompt)[: length - 1] for prompt in prompts]
    ids, mask = pad_aligned(rows, [len(row) - 1 for row in rows], model.device)
    new = length - min(len(row) for row in rows)
    config = _config(model, tokenizer, max_new_tokens=new, do_sample=True, top_k=top_k)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        out = _generate(model, ids, mask, config)[:, ids.shape[1] :].tolist()
    return [
        decode_ids(tokenizer, row + following[: length - len(row)])
        for row, following in zip(rows, out, strict=True)
    ]


def _generate(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    config: GenerationConfig,
    processor: LogitsProcessor | None = None,
) -> Tensor:
    """Token ids of prompts and completions, `[rows, T + new]`."""
    generate: Any = model.generate  # torch types every attribute of a module as a tensor or a module
    # generate() takes missing settings from the model's own config: replace it by an empty one.
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        out: Tensor = generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([processor] if processor else []),
        )
    finally:
        model.generation_config = own
    return out


def _config(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, **settings: object
) -> GenerationConfig:
    """A config without the model's own sampling settings, such as its temperature or repetition penalty."""
    own = model.generation_config
    end = own.eos_token_id if own is not None else tokenizer.eos_token_id
    pad = end[0] if isinstance(end, list) else end
    return GenerationConfig(eos_token_id=end, pad_token_id=pad if pad is not None else 0, **settings)


def answer(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    max_new_tokens: int = 20,
    top: int = 5,
) -> Answer:
    """The greedy completion of one prompt and its `top` most likely next tokens."""
    following = next_tokens(model, tokenizer, prompt, top)
    return Answer(complete(model, tokenizer, [prompt], max_new_tokens)[0], following)


def next_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, top: int = 5
) -> list[NextToken]:
    """The `top` most likely next tokens of one prompt, most likely first."""
    ids = torch.tensor([encode_prompt(tokenizer, prompt)], device=model.device)
    with torch.no_grad():
        probabilities = model(ids).logits[0, -1].float().softmax(-1)
    values, tokens = probabilities.topk(top)
    return [
        NextToken(str(tokenizer.decode([token])), value)
        for token, value in zip(tokens.tolist(), values.tolist(), strict=True)
    ]


def stream(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, max_new_tokens: int
) -> Iterator[str]:
    """The greedy completion of one prompt in pieces of text, as its tokens are generated.

    The joined pieces equal the result of `complete`. Text that a later token may change, such as half a character, is
    yielded together with that token.
    """
    ends = find_end_tokens(model, tokenizer)
    ids: list[int] = []
    sent = ""
    for token in islice(iter_greedy_tokens(model, encode_prompt(tokenizer, prompt)), max_new_tokens):
        if token in ends:
            break
        ids.append(token)
        text = decode_ids(tokenizer, ids)
        if not text.endswith("\ufffd") and text.startswith(sent) and text != sent:
            yield text[len(sent) :]
            sent = text
    text = decode_ids(tokenizer, ids)
    if text.startswith(sent) and text != sent:
        yield text[len(sent) :]


def find_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The ids that end a completion."""
    ends = _config(model, tokenizer).eos_token_id
    return {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}


def iter_greedy_tokens(model: PreTrainedModel, ids: list[int]) -> Iterator[int]:
    """Endless iterator over the greedy continuation of some token ids."""
    step, past = torch.tensor([ids], device=model.device), None
    # The logits of a whole prompt would take more memory than anything else.
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    while True:
        with torch.no_grad():
            out = model(step, past_key_values=past, use_cache=True, **only_last)
        past = out.past_key_values
        token = int(out.logits[0, -1].argmax())
        yield token
        step = torch.tensor([[token]], device=model.device)


def sample_contexts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seed: int
) -> list[str]:
    """Context templates for the prompts of an edit: `{}`, and `count` short sampled texts followed by `. {}`.

    Braces in a text become spaces, since a template has exactly one `{}`.
    """
    templates = ["{}"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for number in range(count):
            ids = torch.tensor(
                [encode_prompt(tokenizer, _OPENINGS[number % len(_OPENINGS)])], device=model.device
            )
            config = _config(model, tokenizer, max_new_tokens=_CONTEXT_TOKENS, do_sample=True, top_k=5)
            out = _generate(model, ids, torch.ones_like(ids), config)
            text = decode_ids(tokenizer, out[0].tolist())
            templates.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}")
    return templates
