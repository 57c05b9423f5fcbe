"""Cases to evaluate, and reference scores by plain forward passes, one token at a time."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from transformers import PreTrainedTokenizerBase

from retcon.engine.evaluation.cases import Case, Neighbor, PortabilityQuestion, Reference
from retcon.engine.model.decoder import Decoder

FAMILIES = ["llama", "gpt2", "gemma2"]
WORDS = ("Eiffel", "Tower", "Paris", "Rome", "Berlin", "France", "Italy", "city", "Toyota", "Camry", "football", "he",
         "she", "born", "mother", "tongue")  # fmt: skip


def cases(count: int) -> list[Case]:
    """Cases of different lengths. Some lack the prompts that a metric needs."""
    built = []
    for n in range(count):
        one, two, three = (WORDS[(n * step + begin) % len(WORDS)] for step, begin in ((1, 1), (3, 3), (5, 6)))
        prompt = f"The {one} is located in" + " the city of" * (n % 2)
        built.append(
            Case(
                prompt,
                f"{two} {three}" if n % 3 else two,
                three if n % 4 else None,
                tuple(f"{one} {word}" for word in WORDS[: n % 3]),
                tuple(Neighbor(f"The {word} plays", one) for word in WORDS[n : n + n % 4]),
                one,
                (f"The {one} is not located in",) if n % 2 else (),
                (PortabilityQuestion(f"{one} was born in the", (two, three)),) if n % 5 == 0 else (),
                (f"The {one}", f"he plays {one}"),
                (Reference(f"{one} is a city in {two}", one), Reference(f"{three} plays sport", three)),
            )
        )
    return built


def forward(decoder: Decoder, ids: list[int]) -> torch.Tensor:
    """log p of the next token at each position of one row, `[T, vocabulary]`."""
    with torch.no_grad():
        return decoder.model(input_ids=torch.tensor([ids])).logits[0].float().log_softmax(-1)


def plain_score(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompt: str, target: str
) -> tuple[float, list[bool]]:
    """Mean NLL of the target's tokens, and whether each is the first choice, with one pass per token."""
    ids = tokenizer(prompt)["input_ids"]
    nlls, first = [], []
    for token in tokenizer(target, add_special_tokens=False)["input_ids"]:
        following = forward(decoder, ids)[-1]
        nlls.append(-following[token].item())
        first.append(following.argmax().item() == token)
        ids = [*ids, token]
    return sum(nlls) / len(nlls), first


def plain_completion(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, ids: list[int], count: int) -> str:
    """A greedy completion with one pass per token."""
    new: list[int] = []
    while len(new) < count:
        new.append(int(forward(decoder, ids + new)[-1].argmax()))
        if new[-1] == decoder.model.generation_config.eos_token_id:
            break
    return tokenizer.decode(new, skip_special_tokens=True)


def shifted(decoder: Decoder) -> tuple[Decoder, Callable[[], Iterator[None]]]:
    """A decoder of an edited copy, and a context in which the copy has its old weights."""
    model = copy.deepcopy(decoder.model)
    edited = Decoder(model, decoder.anatomy)
    weight = edited.part("matrix", 1).weight
    old = weight.data.clone()
    new = old + 0.3 * torch.randn(old.shape, generator=torch.Generator().manual_seed(3))
    weight.data.copy_(new)

    @contextmanager
    def at_base() -> Iterator[None]:
        weight.data.copy_(old)
        try:
            yield
        finally:
            weight.data.copy_(new)

    return edited, at_base
