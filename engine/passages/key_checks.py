"""What is wrong with a passage's facts that only the tokenizer and the model can tell: see `checks`.

A locate-then-edit method writes each fact under a key, what enters the edited matrix at the subject's last token. What
follows the subject cannot reach it, so facts about one subject have one key and overwrite each other. And some tokens
(the first of all, often " the") are sinks: their states are several times as long as others' and hardly depend on the
words, so that an edit there changes everything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from ..edits.method import Request
from ..errors import InputError
from ..model.decoder import Decoder
from ..model.limits import scaled_batch
from ..model.tokens import LocatedPrompt, encode_target, pad_right
from .checks import Problem, in_order, quoted
from .facts import Fact

# The methods that read their key at the subject's last token.
KEYED = ("rome", "r-rome", "memit", "emmet", "alphaedit")

# Twelve of the objects of the seed's passage have two to nine tokens, the other has twenty.
LONGEST_OBJECT = 10
# On the starter model, layers 3 and 5, keys of one subject after other words have cosines of 0.87 to 0.96, those of
# "Newton" and "Isaac Newton" 0.66 to 0.71, those of other subjects less than 0.4.
_EQUAL, _CLOSE = 0.9999, 0.85
# Sinks of the starter model are five to nine times as long as the median, other tokens at most 1.4 times.
_SINK = 4.0
_ROWS_AT_ONCE = 32


def check_tokens(
    facts: Sequence[Fact], tokenizer: PreTrainedTokenizerBase, longest: int = LONGEST_OBJECT
) -> list[Problem]:
    """Subjects and objects that have no tokens, or too many. Leaves out what `checks.check_facts` finds."""
    found: list[Problem] = []
    for at, fact in enumerate(facts):
        try:
            Request(fact.subject, fact.prompt, fact.object)
        except InputError:
            continue
        try:
            size = len(encode_target(tokenizer, fact.object))
            _located(tokenizer, fact)
        except InputError as error:
            found.append(Problem(at, "error", "no-tokens", str(error)))
            continue
        if size > longest:
            message = (
                f"the object {quoted(fact.object)} is {size} tokens long and {longest} are what edits carry well: cut "
                "it down to its head, or make two facts of it"
            )
            found.append(Problem(at, "warning", "long-object", message))
    return in_order(found)


def check_keys(
    facts: Sequence[Fact],
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    layer: int,
    method: str,
    earlier: Sequence[Request] = (),
) -> list[Problem]:
    """Keys that equal another's, of the passage or of the `earlier` facts that the history holds, and prompts that end
    on a sink. `layer` is the first that the method edits.

    Facts in which `check_tokens` finds an error are left out.
    """
    usable = [at for at, fact in enumerate(facts) if _can_be_located(tokenizer, fact)]
    if not usable:
        return []
    rows = [_located(tokenizer, facts[at]) for at in usable]
    read = _read(decoder, [*rows, *(one.locate(tokenizer) for one in earlier)], layer)
    found = list(_sinks(facts, usable, rows, read, method in KEYED))
    if method in KEYED:
        found += _collisions(usable, read.keys, earlier, method)
    return in_order(found)


@dataclass(frozen=True)
class _Keys:
    """`keys` `[rows, key_width]` at the subjects' last tokens, of length 1; `norms[i]` `[T_i]` are the lengths of the
    states that leave the layer, at each token of row i."""

    keys: Tensor
    norms: list[Tensor]


def _read(decoder: Decoder, rows: Sequence[LocatedPrompt], layer: int) -> _Keys:
    keys: list[Tensor] = []
    norms: list[Tensor] = []
    at_once = scaled_batch(_ROWS_AT_ONCE)
    for begin in range(0, len(rows), at_once):
        part = rows[begin : begin + at_once]
        ids, mask = pad_right([row.ids for row in part], decoder.device)

        def on_key(of: int, entering: Tensor, part: Sequence[LocatedPrompt] = part) -> None:
            if of == layer:
                keys.extend(entering[i, row.last].float() for i, row in enumerate(part))

        run = decoder.run(ids, mask, on_key=on_key, stop_after=layer)
        lengths = run.states[layer + 1].float().norm(dim=-1)
        norms += [lengths[i, : len(row.ids)] for i, row in enumerate(part)]
    return _Keys(torch.nn.functional.normalize(torch.stack(keys), dim=-1), norms)


def _collisions(
    usable: Sequence[int], keys: Tensor, earlier: Sequence[Request], method: str
) -> Iterator[Problem]:
    cosines = keys @ keys.T
    for i, at in enumerate(usable):
        for least, kind, word in ((_EQUAL, "equal-key", "equals"), (_CLOSE, "close-key", "nearly equals")):
            near = [j for j in range(len(keys)) if j != i and float(cosines[i, j]) >= least]
            if near:
                yield _collision(at, near, usable, earlier, (kind, word, method))
                break


def _collision(
    at: int,
    near: Sequence[int],
    usable: Sequence[int],
    earlier: Sequence[Request],
    words: tuple[str, str, str],
) -> Problem:
    kind, word, method = words
    inside = tuple(usable[j] for j in near if j < len(usable))
    before = [earlier[j - len(usable)] for j in near if j >= len(usable)]
    whose = [*(f"fact{'s' * (len(inside) > 1)} {_numbers(inside)}" for _ in inside[:1])]
    if before:
        more = f" and {len(before) - 1} more" if len(before) > 1 else ""
        whose.append(f"{quoted(before[0].text)}{more}, written before")
    holds = "can hold only one of them" if kind == "equal-key" else "is likely to lose one of them"
    message = f"its key {word} that of {' and of '.join(whose)}: {method} {holds}; the joint method tells them apart"
    return Problem(at, "warning", kind, message, inside)


def _numbers(facts: Sequence[int]) -> str:
    shown = [str(at + 1) for at in facts[:6]]
    return ", ".join(shown) + (f" and {len(facts) - 6} more" if len(facts) > 6 else "")


def _sinks(
    facts: Sequence[Fact], usable: Sequence[int], rows: Sequence[LocatedPrompt], read: _Keys, keyed: bool
) -> Iterator[Problem]:
    usual = float(torch.cat(read.norms).median())
    for at, row, norms in zip(usable, rows, read.norms, strict=False):
        if keyed and float(norms[row.last]) > _SINK * usual:
            message = (
                f"its key is read at {quoted(row.tokens[row.last])}, a token whose state is "
                f"{float(norms[row.last]) / usual:.0f} times as long as others (a sink): an edit there changes "
                "everything; put a word before the subject, or widen it"
            )
            yield Problem(at, "warning", "sink-key", message)
        last = len(row.ids) - 1
        if last != row.last and float(norms[last]) > _SINK * usual:
            message = (
                f"its prompt ends on {quoted(row.tokens[last])}, a token whose state is "
                f"{float(norms[last]) / usual:.0f} times as long as others (a sink): move that word into the object"
            )
            yield Problem(at, "warning", "sink-end", message)


def _can_be_located(tokenizer: PreTrainedTokenizerBase, fact: Fact) -> bool:
    try:
        encode_target(tokenizer, fact.object)
        _located(tokenizer, fact)
    except InputError:
        return False
    return True


def _located(tokenizer: PreTrainedTokenizerBase, fact: Fact) -> LocatedPrompt:
    return Request(fact.subject, fact.prompt, fact.object).locate(tokenizer)
