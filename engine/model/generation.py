"""What a model goes on to say: greedy completions, next-token probabilities, and the context texts of an edit."""

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

# MEMIT's openings (Meng et al. 2023): a few words of anything, so that the key is not tied to position 0.
_OPENINGS = ("The", "Therefore", "Because", "I", "You")
_CONTEXT_TOKENS = 10
_AT_ONCE = 16


@dataclass(frozen=True)
class NextToken:
    token: str
    probability: float


@dataclass(frozen=True)
class Answer:
    """What follows a prompt: a greedy completion and the likeliest next tokens."""

    completion: str
    next: list[NextToken]


def complete(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str]:
    """Greedy completions, without the prompts; ends at the model's end token."""
    return complete_ids(
        model, tokenizer, [encode_prompt(tokenizer, prompt) for prompt in prompts], max_new_tokens
    )


def complete_ids(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    max_new_tokens: int,
) -> list[str]:
    """The same for prompts that are token ids already."""
    texts: list[str] = []
    config = _config(model, tokenizer, max_new_tokens=max_new_tokens, do_sample=False)
    at_once = scaled_batch(_AT_ONCE)
    for begin in range(0, len(prompts), at_once):
        rows = prompts[begin : begin + at_once]
        ids, mask = pad_aligned(rows, [len(row) - 1 for row in rows], model.device)
        out = _generate(model, ids, mask, config)
        texts += [decode_ids(tokenizer, row) for row in out[:, ids.shape[1] :].tolist()]
    return texts


@dataclass(frozen=True)
class Continuation:
    """What follows one prompt: its text, how many tokens it is, and whether the model ended it by itself."""

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
    """The greedy completion of one prompt of token ids, up to the model's end token; `processor` changes the scores of
    the next tokens before the best is taken."""
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
    """Prompts with a continuation sampled from the `top_k` likeliest tokens, `length` tokens together.

    The same for the same seed, prompts and device.
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
    """Prompts and what follows them, `[rows, T + new]`."""
    generate: Any = model.generate  # torch types every attribute of a module as a tensor or a module
    # generate() fills whatever a config leaves open from the model's own: set that aside.
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
    """Nothing of the model's own sampling settings (a repetition penalty, a temperature) leaks in."""
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
    """The completion of one prompt and its `top` likeliest next tokens."""
    following = next_tokens(model, tokenizer, prompt, top)
    return Answer(complete(model, tokenizer, [prompt], max_new_tokens)[0], following)


def next_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompt: str, top: int = 5
) -> list[NextToken]:
    """The `top` likeliest next tokens of one prompt, likeliest first."""
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
    """The greedy completion of one prompt in pieces of text, as its tokens come; ends at the model's end token.

    Joined, the pieces are what `complete` returns. What a token may still change of the text (half a character, a
    space) comes with the token that settles it.
    """
    ends = find_end_tokens(model, tokenizer)
    found: list[int] = []
    told = ""
    for token in islice(iter_greedy_tokens(model, encode_prompt(tokenizer, prompt)), max_new_tokens):
        if token in ends:
            break
        found.append(token)
        text = decode_ids(tokenizer, found)
        if not text.endswith("\ufffd") and text.startswith(told) and text != told:
            yield text[len(told) :]
            told = text
    text = decode_ids(tokenizer, found)
    if text.startswith(told) and text != told:
        yield text[len(told) :]


def find_end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens at which the model says that it has ended."""
    ends = _config(model, tokenizer).eos_token_id
    return {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}


def iter_greedy_tokens(model: PreTrainedModel, ids: list[int]) -> Iterator[int]:
    """The first choices that follow some tokens, one after another and without end: who reads them stops."""
    fed, past = torch.tensor([ids], device=model.device), None
    # Logits of a whole prompt would be the most of its memory.
    only_last = {"logits_to_keep": 1} if "logits_to_keep" in signature(model.forward).parameters else {}
    while True:
        with torch.no_grad():
            out = model(fed, past_key_values=past, use_cache=True, **only_last)
        past = out.past_key_values
        token = int(out.logits[0, -1].argmax())
        yield token
        fed = torch.tensor([[token]], device=model.device)


def sample_contexts(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, count: int, seed: int
) -> list[str]:
    """Templates to see a prompt in: `{}` itself and `count` short texts of the model's own with `. {}` after them.

    Braces in a text would break the template, so they become spaces.
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
