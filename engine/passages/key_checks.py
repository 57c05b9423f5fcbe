"""Checks of a passage's facts that need the tokenizer and the model (see `checks` for the others).

A locate-then-edit method writes each fact under a key: the input of the edited matrix at the subject's last token.
Later tokens do not affect it, so facts of one subject share one key and overwrite each other. Some tokens (the first
one, often " the") are attention sinks: the norms of their states are several times larger and hardly depend on the
context. An edit at a sink changes every output.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ...passage_facts import PassageFact
from ..edits import HPARAMS
from ..edits.hparams.base import ValueSearchHparams
from ..edits.method import Request
from ..errors import InputError
from ..model.decoder import Decoder
from ..model.limits import scaled_batch
from ..model.tokens import LocatedPrompt, encode_target, pad_right
from .checks import Problem, quote, sort_problems

# Measured on one passage: twelve objects have two to nine tokens, one has twenty.
MAX_OBJECT_TOKENS = 10
# Cosines of keys on the starter model, layers 3 and 5: 0.87 to 0.96 for one subject in different contexts, 0.66 to 0.71
# for "Newton" and "Isaac Newton", less than 0.4 for different subjects.
_EQUAL, _CLOSE = 0.9999, 0.85
# State norms on the starter model: five to nine times the median at sinks, at most 1.4 times elsewhere.
_SINK = 4.0
_BATCH_ROWS = 32


def check_tokens(
    facts: Sequence[PassageFact], tokenizer: PreTrainedTokenizerBase, max_tokens: int = MAX_OBJECT_TOKENS
) -> list[Problem]:
    """Check the numbers of tokens of subjects and objects."""
    problems: list[Problem] = []
    for at, fact in enumerate(facts):
        try:
            size = len(encode_target(tokenizer, fact.object))
            _locate(tokenizer, fact)
        except InputError as error:
            problems.append(Problem(at, "error", "no-tokens", str(error)))
            continue
        if size > max_tokens:
            message = (
                f"the object {quote(fact.object)} has {size} tokens, and edits are reliable up to {max_tokens}; "
                "shorten it, or split the fact"
            )
            problems.append(Problem(at, "warning", "long-object", message))
    return sort_problems(problems)


def check_keys(
    facts: Sequence[PassageFact],
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    method: str,
    earlier: Sequence[Request] = (),
) -> list[Problem]:
    """Find equal keys, and sinks, at `layer`: the first layer that the method edits.

    The facts have no error of `check_tokens`. `earlier` are the requests of the history.
    """
    rows = [_locate(tokenizer, fact) for fact in facts]
    keys, norms = _read_keys(decoder, [*rows, *(one.locate(tokenizer) for one in earlier)], layer)
    # Methods that search a value write it under the key at the subject's last token.
    is_keyed = method in HPARAMS and issubclass(HPARAMS[method], ValueSearchHparams)
    problems = list(_check_sinks(rows, norms, is_keyed=is_keyed))
    if is_keyed:
        problems += _check_collisions(keys, earlier, method)
    return sort_problems(problems)


def _read_keys(decoder: Decoder, rows: Sequence[LocatedPrompt], layer: int) -> tuple[Tensor, list[Tensor]]:
    """Normalized keys `[rows, key_width]` at the subjects' last tokens, and the norms of the layer's output states.

    The norms of row i are `[T_i]`, one per token.
    """
    keys: list[Tensor] = []
    norms: list[Tensor] = []
    size = scaled_batch(_BATCH_ROWS)
    for begin in range(0, len(rows), size):
        batch = rows[begin : begin + size]
        ids, mask = pad_right([row.ids for row in batch], decoder.device)

        def on_key(at: int, inputs: Tensor, batch: Sequence[LocatedPrompt] = batch) -> None:
            if at == layer:
                keys.extend(inputs[i, row.last].float() for i, row in enumerate(batch))

        run = decoder.run(ids, mask, on_key=on_key, stop_after=layer)
        lengths = run.states[layer + 1].float().norm(dim=-1)
        norms += [lengths[i, : len(row.ids)] for i, row in enumerate(batch)]
    return torch.nn.functional.normalize(torch.stack(keys), dim=-1), norms


def _check_collisions(keys: Tensor, earlier: Sequence[Request], method: str) -> Iterator[Problem]:
    cosines, facts = keys @ keys.T, len(keys) - len(earlier)
    for at in range(facts):
        for threshold, kind in ((_EQUAL, "equal-key"), (_CLOSE, "close-key")):
            near = [j for j in range(len(keys)) if j != at and float(cosines[at, j]) >= threshold]
            if near:
                others = tuple(j for j in near if j < facts)
                before = [earlier[j - facts] for j in near if j >= facts]
                yield Problem(at, "warning", kind, _describe_collision(kind, others, before, method), others)
                break


def _describe_collision(kind: str, others: Sequence[int], before: Sequence[Request], method: str) -> str:
    owners = []
    if others:
        shown = ", ".join(str(at + 1) for at in others[:6])
        more = f" and {len(others) - 6} more" if len(others) > 6 else ""
        owners.append(f"fact{'s' * (len(others) > 1)} {shown}{more}")
    if before:
        more = f" and {len(before) - 1} more" if len(before) > 1 else ""
        owners.append(f"{quote(before[0].text)}{more}, written before")
    verb, effect = "nearly equals", "is likely to lose one of them"
    if kind == "equal-key":
        verb, effect = "equals", "can store only one of them"
    return f"its key {verb} that of {' and of '.join(owners)}, so {method} {effect}; use the method joint"


def _check_sinks(
    rows: Sequence[LocatedPrompt], all_norms: Sequence[Tensor], *, is_keyed: bool
) -> Iterator[Problem]:
    median = float(torch.cat(list(all_norms)).median())
    # `all_norms` also has the earlier requests, after the facts.
    for at, (row, norms) in enumerate(zip(rows, all_norms, strict=False)):
        if is_keyed and float(norms[row.last]) > _SINK * median:
            message = (
                f"its key is read at {quote(row.tokens[row.last])}, whose state norm is "
                f"{float(norms[row.last]) / median:.0f} times the median (a sink), so an edit there changes every "
                "output; put a word before the subject, or use a longer subject"
            )
            yield Problem(at, "warning", "sink-key", message)
        last = len(row.ids) - 1
        if last != row.last and float(norms[last]) > _SINK * median:
            message = (
                f"its prompt ends on {quote(row.tokens[last])}, whose state norm is "
                f"{float(norms[last]) / median:.0f} times the median (a sink); move that word into the object"
            )
            yield Problem(at, "warning", "sink-end", message)


def _locate(tokenizer: PreTrainedTokenizerBase, fact: PassageFact) -> LocatedPrompt:
    return Request(fact.subject, fact.prompt, fact.object).locate(tokenizer)
