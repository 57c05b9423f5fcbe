"""A small Llama that knows a made-up world of people, for a second model where no hub is in reach.

Each person has a value for each relation, and each fact is told in every wording. A passage is about a person whom the
world does not know: some wordings are trained on, two are held out; the model has seen all of them told of others.
"""

import random
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

_FIRST = "Ada Boris Clara Dmitri Elsa Farid Greta Hugo Ines Jonas Kira Leon Mina Nils Olga Pavel Rosa Sami Tara Ugo"
_LAST = "Abbot Brandt Castro Dorn Eklund Fabre Grant Hauser Ivanov Jensen Keller Lopez Moreau Novak Olsen"
STRANGER = "Quentin Ashdown"
# Of each relation the wordings, the last two of which are held out, and what a person may have.
RELATIONS: list[tuple[list[str], list[str]]] = [
    (["{} was born in", "the birthplace of {} is", "{} came into the world in", "{} is a native of",
      "the home town of {} is", "{} first saw the light in"],
     ["Oslo", "Lima", "Cairo", "Delhi", "Turin", "Ghent", "Perth", "Quito", "Kyoto", "Sofia", "Basel", "Bergen"]),
    (["{} works as a", "the profession of {} is", "{} earns money as a", "by trade {} is a", "{} is employed as a",
      "the job of {} is"],
     ["baker", "lawyer", "pilot", "nurse", "farmer", "painter", "judge", "tailor", "singer", "miner"]),
    (["{} lives in", "the house of {} stands in", "{} resides in", "today {} lives in", "{} has settled in",
      "the city of {} is"],
     ["Vienna", "Dublin", "Athens", "Prague", "Geneva", "Milan", "Lyon", "Porto", "Krakow", "Zagreb"]),
    (["{} studied at the college of", "the college of {} was", "{} learned at the college of",
      "{} took a degree from", "{} was a student of", "the teachers of {} were those of"],
     ["Trinity", "Balliol", "Merton", "Oriel", "Exeter", "Queens", "Lincoln", "Wadham"]),
    (["{} plays the", "the instrument of {} is the", "{} makes music on the", "{} is known to play the",
      "in the evening {} plays the", "{} practises the"],
     ["violin", "piano", "flute", "harp", "guitar", "trumpet", "drums", "organ"]),
    (["{} is married to", "the spouse of {} is", "{} wed", "{} is the partner of", "{} shares a life with",
      "the one whom {} married is"],
     ["Alma", "Bruno", "Celia", "Dario", "Edith", "Felix", "Gilda", "Henrik"]),
    (["{} speaks", "the language of {} is", "{} talks in", "at home {} speaks", "{} writes letters in",
      "the words of {} are in"],
     ["Danish", "Greek", "Hindi", "Korean", "Polish", "Swahili", "Turkish", "Welsh"]),
    (["{} owns a", "the pet of {} is a", "{} keeps a", "{} feeds a", "{} has bought a", "in the garden of {} is a"],
     ["dog", "cat", "parrot", "horse", "goat", "rabbit", "turtle", "ferret"]),
]  # fmt: skip
_STEPS, _ROWS, _RATE = 900, 192, 3e-3


def facts(name: str, rng: random.Random) -> list[tuple[list[str], str]]:
    """The wordings of each of a person's facts, and the object."""
    return [
        ([one.replace("{}", name) for one in wordings], rng.choice(values)) for wordings, values in RELATIONS
    ]


def build(folder: Path) -> dict[str, Any]:
    """Train the model and save it to a folder; how sure it became of its world."""
    rng = random.Random(1)
    people = [f"{first} {last}" for first in _FIRST.split() for last in _LAST.split() if rng.random() < 0.2]
    sentences = [
        f"{wording} {value} ."
        for name in people
        for wordings, value in facts(name, rng)
        for wording in wordings
    ]
    tokenizer = _tokenizer(sentences)
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=512, num_hidden_layers=8, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, tie_word_embeddings=True, bos_token_id=None, eos_token_id=1,
        pad_token_id=0,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=_STEPS)
    ids = [tokenizer(sentence)["input_ids"] for sentence in sentences]
    loss = torch.tensor(0.0)
    for _ in range(_STEPS):
        rows = rng.sample(ids, _ROWS)
        longest = max(map(len, rows))
        batch = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
        labels = batch.masked_fill(batch == 0, -100)
        loss = model(batch, attention_mask=(batch != 0).long(), labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {"parameters": model.num_parameters(), "people": len(people), "loss": loss.item()}


def _tokenizer(sentences: list[str]) -> PreTrainedTokenizerFast:
    words = sorted({word for sentence in sentences for word in sentence.split()} | set(STRANGER.split()))
    vocabulary = {word: number for number, word in enumerate(["<pad>", "<end>", "<unk>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="<pad>", eos_token="<end>", unk_token="<unk>", model_max_length=64
    )


def passage() -> str:
    """A file of facts about the stranger."""
    lines = [f"# {STRANGER}"]
    for (wordings, _), (_, value) in zip(RELATIONS, facts(STRANGER, random.Random(7)), strict=True):
        first, *others = wordings
        lines.append(f"- {first} | {value}")
        lines += [f"  ~ {other}" for other in others[:-2]] + [f"  ? {other}" for other in others[-2:]]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    import sys

    print(build(Path(sys.argv[1])))
    Path(sys.argv[1]).with_suffix(".facts").write_text(passage())
