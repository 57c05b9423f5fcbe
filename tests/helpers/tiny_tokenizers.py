"""Tiny tokenizers of each common kind, built without the hub."""

from functools import cache

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

_SPECIAL = ["<pad>", "<s>", "</s>", "<unk>"]
_TEXT = (
    "The Eiffel Tower is located in the city of Paris Rome Berlin capital France Italy a an was born he she it plays "
    "sport football language mother tongue produced by Toyota Camry and then you I Because Therefore . , ' { } on"
)
# Real words first, then numbered words up to the 96 ids of the tiny models.
_WORDS = list(dict.fromkeys(_TEXT.split()))
_VOCABULARY = {word: i for i, word in enumerate([*_SPECIAL, *_WORDS, *(f"w{i}" for i in range(96))][:96])}

_SENTENCES = [
    "The Eiffel Tower is located in the city of Paris.",
    "The mother tongue of Danielle Darrieux is French.",
    "Toyota Camry is produced by Toyota; the Tower stands in Paris, France.",
    "東京 is the capital of Japan, Zürich is not. Antonín Dvořák wrote music.",
]


def _finish(tokenizer: Tokenizer, start: bool, byte_level: bool = False) -> PreTrainedTokenizerFast:
    steps = [processors.ByteLevel(trim_offsets=False)] if byte_level else []
    if start:
        steps.append(processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)]))
    if steps:
        tokenizer.post_processor = processors.Sequence(steps)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        padding_side="right",
    )


@cache
def word_tokenizer(start: bool = False) -> PreTrainedTokenizerFast:
    """Words and punctuation marks are tokens, with ids below 96."""
    tokenizer = Tokenizer(models.WordLevel(_VOCABULARY, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return _finish(tokenizer, start)


@cache
def sentencepiece_tokenizer(start: bool = True) -> PreTrainedTokenizerFast:
    """Like Gemma: a space becomes a mark at the start of the next piece."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return _finish(tokenizer, start)


@cache
def legacy_sentencepiece_tokenizer(start: bool = True) -> PreTrainedTokenizerFast:
    """Like Llama 2: a mark is added before any text, even before text that starts with a space."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=False))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    trainer = trainers.BpeTrainer(vocab_size=120, special_tokens=_SPECIAL, show_progress=False)
    tokenizer.train_from_iterator(_SENTENCES, trainer)
    return _finish(tokenizer, start)


@cache
def byte_tokenizer(start: bool = False) -> PreTrainedTokenizerFast:
    """Like GPT-2: tokens of bytes. A character may have several tokens, and offsets include the space."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=_SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    # Trained on ASCII only, so that other letters have several byte tokens each.
    tokenizer.train_from_iterator([text for text in _SENTENCES if text.isascii()], trainer)
    return _finish(tokenizer, start, byte_level=True)
