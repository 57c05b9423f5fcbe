"""A small Llama that knows a made-up world of people, for a second model where no hub is in reach.

    make bench BENCH=world

Each person has a value for each relation, and each fact is told in every wording, among the shipped texts. A passage is
about a stranger to that world: four wordings of each fact are trained on, two are held out. The model has seen all of
them told of others, so a change that says them of the stranger can hold in the two as well. Three strangers; each is
put into the unedited model by each of WAYS, with eighty facts about the people of the world to stay.
"""

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from tokenizers import ByteLevelBPETokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from retcon.engine.covariance.corpus import open_corpus
from retcon.passage_facts import PassageFact
from retcon.store.facts.passage_format import Passage, format_passage

from .passage import Home, figures

_FIRST = "Ada Boris Clara Dmitri Elsa Farid Greta Hugo Ines Jonas Kira Leon Mina Nils Olga Pavel Rosa Sami Tara Ugo"
_LAST = "Abbot Brandt Castro Dorn Eklund Fabre Grant Hauser Ivanov Jensen Keller Lopez Moreau Novak Olsen"
_STRANGERS = ("Quentin Ashdown", "Wanda Birch", "Viktor Lindell")
# Of each relation the wordings, the last two of which are held out, and what a person may have.
_RELATIONS: list[tuple[list[str], list[str]]] = [
    (["{} was born in", "The birthplace of {} is", "{} came into the world in", "{} is a native of",
      "The home town of {} is", "{} first saw the light in"],
     ["Oslo", "Lima", "Cairo", "Delhi", "Turin", "Ghent", "Perth", "Quito", "Kyoto", "Sofia", "Basel", "Bergen"]),
    (["{} works as a", "The profession of {} is", "{} earns money as a", "By trade {} is a", "{} is employed as a",
      "The job of {} is"],
     ["baker", "lawyer", "pilot", "nurse", "farmer", "painter", "judge", "tailor", "singer", "miner"]),
    (["{} lives in", "The house of {} stands in", "{} resides in", "Today {} lives in", "{} has settled in",
      "The city of {} is"],
     ["Vienna", "Dublin", "Athens", "Prague", "Geneva", "Milan", "Lyon", "Porto", "Krakow", "Zagreb"]),
    (["{} studied at the college of", "The college of {} was", "{} learned at the college of",
      "{} took a degree from", "{} was a student of", "The teachers of {} were those of"],
     ["Trinity", "Balliol", "Merton", "Oriel", "Exeter", "Queens", "Lincoln", "Wadham"]),
    (["{} plays the", "The instrument of {} is the", "{} makes music on the", "{} is known to play the",
      "In the evening {} plays the", "{} practises the"],
     ["violin", "piano", "flute", "harp", "guitar", "trumpet", "drums", "organ"]),
    (["{} is married to", "The spouse of {} is", "{} wed", "{} is the partner of", "{} shares a life with",
      "The one whom {} married is"],
     ["Alma", "Bruno", "Celia", "Dario", "Edith", "Felix", "Gilda", "Henrik"]),
    (["{} speaks", "The language of {} is", "{} talks in", "At home {} speaks", "{} writes letters in",
      "The words of {} are in"],
     ["Danish", "Greek", "Hindi", "Korean", "Polish", "Swahili", "Turkish", "Welsh"]),
    (["{} owns a", "The pet of {} is a", "{} keeps a", "{} feeds a", "{} has bought a", "In the garden of {} is a"],
     ["dog", "cat", "parrot", "horse", "goat", "rabbit", "turtle", "ferret"]),
]  # fmt: skip
_PEOPLE, _HELD_OUT, _KNOWN = 60, 2, 80
_WIDTH, _DEPTH, _VOCABULARY = 128, 8, 4096
_STEPS, _RATE, _SENTENCES, _STRETCHES, _STRETCH = 2400, 2e-3, 96, 12, 48


_TOLD = ("facts", "teacher_forced", "free", "held_out", "held_out_first_token", "held_out_whole", "kept", "kl",
         "perplexity", "bleed")  # fmt: skip
# Joint with the starter's settings, in the lower two thirds; all others as they would be tried first.
_LAYERS = [1, 2, 3, 4, 5]
_TRAINED = {"num_steps": 200, "rows": 24, "preserved_rows": 24}
_JOINT = _TRAINED | {"layers": _LAYERS, "lr": 0.004, "weight_decay": 0.02, "kl_factor": 10, "keys": "subject",
                     "key_tolerance": 0.02}  # fmt: skip


class Way(NamedTuple):
    """How the facts are written."""

    method: str
    hparams: dict[str, Any]
    edits: int = 1


WAYS = {
    "joint": Way("joint", _JOINT),
    "joint_in_four_edits": Way("joint", _JOINT, 4),
    "lora": Way("lora", {"num_steps": 80, "lr": 0.003, "rows": 24, "lora_rank": 32, "lora_alpha": 32}),
    "rome": Way("rome", {"layers": [2], "v_loss_layer": 7}),
    "memit": Way(
        "memit",
        {"layers": [1, 2, 3], "v_loss_layer": 7, "clamp_norm_factor": 0.75, "mom2_update_weight": 100},
    ),
}


def run() -> dict[str, Any]:
    """What the model knows of its world, and the figures of each way, over the strangers."""
    with tempfile.TemporaryDirectory() as name:
        folder, world = Path(name), World()
        built = world.build(folder / "world")
        home = Home(folder)
        home("model", "add", folder / "world", "--name", "world")
        (folder / "known.json").write_text(json.dumps(world.known()))
        home("facts", "import", folder / "known.json", "--name", "known")
        (folder / "texts.txt").write_text("\n".join(world.texts()))
        return {"world": {"model": built} | {way: _over_all(_each(home, WAYS[way])) for way in WAYS}}


def _each(home: Home, way: Way) -> list[dict[str, Any]]:
    """The figures of each stranger."""
    hparams, facts = home.folder / "hparams.json", home.folder / "stranger.facts"
    hparams.write_text(json.dumps(way.hparams))
    found = []
    for name in _STRANGERS:
        facts.write_text(format_passage(passage(name)))
        record = home.json(
            "passage", "run", "world@base", facts, "--known", "known", "--against", "", "--edits", way.edits,
            "--texts", home.folder / "texts.txt", "--method", way.method, "--hparams", hparams,
        )  # fmt: skip
        found.append(figures(record))
    return found


class World:
    """The people and what is true of them."""

    def __init__(self) -> None:
        rng = random.Random(1)
        names = [f"{first} {last}" for first in _FIRST.split() for last in _LAST.split()]
        self.people = {name: _values(rng) for name in rng.sample(names, _PEOPLE)}

    def told(self) -> list[tuple[str, str]]:
        """Every fact in every wording: what comes before the value, and the value."""
        return [
            (wording.replace("{}", name), value)
            for name, values in self.people.items()
            for (wordings, _), value in zip(_RELATIONS, values, strict=True)
            for wording in wordings
        ]

    def known(self) -> list[dict[str, str]]:
        """Some facts about the people, one wording each: what should stay."""
        rng = random.Random(2)
        facts = [
            {"subject": name, "prompt": rng.choice(wordings), "target_true": value}
            for name, values in self.people.items()
            for (wordings, _), value in zip(_RELATIONS, values, strict=True)
        ]
        return rng.sample(facts, _KNOWN)

    def texts(self) -> list[str]:
        """What the model was trained on: the world and the shipped texts."""
        sentences = (f"{prompt} {value}." for prompt, value in self.told())
        return [*sentences, *(" ".join(text.split()) for text in open_corpus("shipped").documents(1))]

    def build(self, folder: Path) -> dict[str, Any]:
        """Train the model and save it with its tokenizer; `knows` is the share of all sentences whose value is its
        first choice, token by token."""
        began = time.monotonic()
        tokenizer = _tokenizer(self.texts())
        torch.manual_seed(1)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=4 * _WIDTH, num_hidden_layers=_DEPTH,
                num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
                bos_token_id=None, eos_token_id=1, pad_token_id=0,
            )
        )  # fmt: skip
        texts, facts = self.texts(), len(self.told())
        sentences = [tokenizer(text)["input_ids"] for text in texts[:facts]]
        _train(model, sentences, tokenizer("\n".join(texts[facts:]))["input_ids"])
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {
            "parameters": model.num_parameters(),
            "people": _PEOPLE,
            "knows": _known_share(model.eval(), tokenizer, self.told()),
            "seconds": time.monotonic() - began,
        }


def _over_all(each: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts added up, shares averaged."""
    return {
        key: sum(values) if isinstance(values[0], int) else fmean(values)
        for key in _TOLD
        if (values := [one[key] for one in each])
    }


def _values(rng: random.Random) -> list[str]:
    return [rng.choice(values) for _, values in _RELATIONS]


def passage(name: str) -> Passage:
    """Facts about a stranger."""
    values = _values(random.Random(name))
    facts = tuple(
        PassageFact(name, wordings[0], value, tuple(wordings[1:-_HELD_OUT]), tuple(wordings[-_HELD_OUT:]))
        for (wordings, _), value in zip(_RELATIONS, values, strict=True)
    )
    text = " ".join(fact.prompt.replace("{}", name) + f" {fact.object}." for fact in facts)
    return Passage(name, text, facts, ())


def _tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    made = ByteLevelBPETokenizer()
    made.train_from_iterator(texts, _VOCABULARY, special_tokens=["<pad>", "<end>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=made._tokenizer, pad_token="<pad>", eos_token="<end>", model_max_length=512
    )


def _train(model: LlamaForCausalLM, sentences: list[list[int]], text: list[int]) -> None:
    """Some sentences and some stretches of text a step."""
    rng = random.Random(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_STEPS)
    for step in range(_STEPS):
        starts = [rng.randrange(len(text) - _STRETCH) for _ in range(_STRETCHES)]
        batches = (rng.sample(sentences, _SENTENCES), [text[start : start + _STRETCH] for start in starts])
        losses = []
        for rows in batches:
            ids = _padded(rows)
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(
                    ids, attention_mask=(ids != 0).long(), labels=ids.masked_fill(ids == 0, -100)
                ).loss
            loss.backward()
            losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        if step % 100 == 0:
            print(
                f"step {step} of {_STEPS}: loss {losses[0]:.2f} on the world, {losses[1]:.2f} on texts",
                file=sys.stderr,
            )


@torch.no_grad()
def _known_share(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, told: list[tuple[str, str]]
) -> float:
    """Of prompts and values, the share whose value is the first choice behind its prompt, in all its tokens."""
    held = 0
    for begin in range(0, len(told), 256):
        pairs = [
            [tokenizer(text)["input_ids"] for text in (prompt, f" {value}")]
            for prompt, value in told[begin : begin + 256]
        ]
        ids = _padded([prompt + value for prompt, value in pairs])
        chosen = model(ids, attention_mask=(ids != 0).long()).logits.argmax(-1)
        for row, (prompt, value) in zip(chosen.tolist(), pairs, strict=True):
            held += row[len(prompt) - 1 :][: len(value)] == value
    return held / len(told)


def _padded(rows: list[list[int]]) -> torch.Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [0] * (longest - len(row)) for row in rows])
