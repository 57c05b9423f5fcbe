"""Probes that an edit should survive and the published metrics do not ask: the negated prompt, the chat turn.

An edit that only ties the subject to the new object answers "X is not located in" with it too (arXiv 2510.00625).
"""

import re
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.generation import complete_ids
from ..model.turns import turn_ids

NEGATION = (
    "'not' after the last is, are, was, were or can of the prompt, none for a question; or the fact's own"
)
_VERB = re.compile(r"\b(is|are|was|were|can)\b(?! not\b)(?!.*\b(?:is|are|was|were|can)\b)", re.DOTALL)

CHAT = "Complete the sentence: {prompt} ..."
CHAT_RULE = (
    f"user turn {CHAT!r}, a question as it is; greedy; counted if the reply holds the target as whole words"
)


def negated(template: str) -> str | None:
    """A template with its last copula negated; None for a question and where there is no copula.

    The last, since in "the city that was ... is" it is the one that the object follows. The template holds `{}` for
    the subject, so that no word of the subject is taken for it.
    """
    if template.rstrip().endswith("?") or not _VERB.search(template):
        return None
    return _VERB.sub(r"\1 not", template, count=1)


def user_text(prompt: str) -> str:
    """What the user turn says."""
    return prompt if prompt.rstrip().endswith("?") else CHAT.format(prompt=prompt.rstrip())


def replies(
    decoder: Decoder, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], max_new_tokens: int
) -> list[str | None]:
    """What the model replies to a user turn for each prompt; None if its tokenizer has no chat template."""
    if not tokenizer.chat_template:
        return [None] * len(prompts)
    rows = [turn_ids(tokenizer, user_text(prompt)) for prompt in prompts]
    return list(complete_ids(decoder.model, tokenizer, rows, max_new_tokens))
