"""The chat template of a model: a user's turn as token ids, and what ends a reply."""

from transformers import PreTrainedTokenizerBase

_MARK = "retcon"


def turn_ids(tokenizer: PreTrainedTokenizerBase, said: str) -> list[int]:
    """A user's turn, up to where the reply begins; only for a tokenizer with a chat template."""
    turns = [{"role": "user", "content": said}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    # The template writes the special tokens itself.
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def turn_ends(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The special token that the chat template writes behind a reply, if any; not every model names it as its end."""
    turns = [{"role": "user", "content": _MARK}, {"role": "assistant", "content": _MARK}]
    text = str(tokenizer.apply_chat_template(turns, tokenize=False))
    after = tokenizer(text.rpartition(_MARK)[2].lstrip(), add_special_tokens=False)["input_ids"]
    return [token for token in after[:1] if token in tokenizer.added_tokens_decoder]
