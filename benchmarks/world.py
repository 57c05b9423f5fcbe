"""A small Llama that is trained on an invented world of people, as a second model without a hub.

    STEPS=2400 PARTS=joint,lora make bench BENCH=world

Each person has a value for each relation. The model is trained on each fact in every paraphrase, and on the shipped
texts. A passage describes a new person: four paraphrases of each fact are for training, two for evaluation. The model
knows all paraphrases of other people, so an edit of the new person can hold in the evaluation paraphrases too. Three
new people are each written into the unedited model with each of METHODS. Eighty facts about the people of the world
measure the side effects.
"""

import json
import os
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

from .command_line import CommandLine
from .passage import summarize_record

_FIRST = "Ada Boris Clara Dmitri Elsa Farid Greta Hugo Ines Jonas Kira Leon Mina Nils Olga Pavel Rosa Sami Tara Ugo"
_LAST = "Abbot Brandt Castro Dorn Eklund Fabre Grant Hauser Ivanov Jensen Keller Lopez Moreau Novak Olsen"
_NEW_PEOPLE = ("Quentin Ashdown", "Wanda Birch", "Viktor Lindell")
# For each relation: paraphrases, of which the last two are for evaluation, and the possible values.
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
_PEOPLE, _EVAL_PARAPHRASES, _KNOWN = 60, 2, 80
_WIDTH, _DEPTH, _VOCABULARY = 128, 8, 4096
_STEPS, _LEARNING_RATE = int(os.environ.get("STEPS", "2400")), 2e-3
# Rows of a training step: sentences of the world, and chunks of text with their length in tokens.
_SENTENCES, _CHUNKS, _CHUNK_TOKENS = 96, 12, 48

_FIGURES = ("facts", "teacher_forced", "free", "held_out", "held_out_first_token", "held_out_whole", "preserved", "kl",
            "perplexity", "leakage_rate")  # fmt: skip
# `joint` has the starter's settings in the lower two thirds of the layers. The others have their default settings.
_TRAINED = {"num_steps": 200, "rows": 24, "preserved_rows": 24}
_JOINT = _TRAINED | {"layers": [1, 2, 3, 4, 5], "lr": 0.004, "weight_decay": 0.02, "kl_factor": 10, "keys": "subject",
                     "key_tolerance": 0.02}  # fmt: skip


class MethodRun(NamedTuple):
    """A method, its settings, and the number of edits that the facts are split into."""

    method: str
    hparams: dict[str, Any]
    edits: int = 1


METHODS = {
    "joint": MethodRun("joint", _JOINT),
    "joint_in_four_edits": MethodRun("joint", _JOINT, 4),
    "lora": MethodRun("lora", {"num_steps": 80, "lr": 0.003, "rows": 24, "lora_rank": 32, "lora_alpha": 32}),
    "rome": MethodRun("rome", {"layers": [2], "v_loss_layer": 7}),
    "memit": MethodRun(
        "memit",
        {"layers": [1, 2, 3], "v_loss_layer": 7, "clamp_norm_factor": 0.75, "mom2_update_weight": 100},
    ),
}


def run() -> dict[str, Any]:
    """Figures of the trained model, and of each method over the new people."""
    with tempfile.TemporaryDirectory() as name:
        folder, world = Path(name), World()
        figures = {"model": world.train_model(folder / "world")}
        retcon = CommandLine(folder / "home")
        retcon("model", "add", folder / "world", "--name", "world")
        (folder / "known.json").write_text(json.dumps(world.sample_known_facts()))
        retcon("facts", "import", folder / "known.json", "--name", "known")
        (folder / "texts.txt").write_text("\n".join(world.texts()))
        for part in os.environ.get("PARTS", ",".join(METHODS)).split(","):
            figures[part] = _combine(_write_passages(retcon, folder, METHODS[part]))
        return {"world": figures}


def _write_passages(retcon: CommandLine, folder: Path, run: MethodRun) -> list[dict[str, Any]]:
    """Write the passage of each new person into the unedited model. Returns the figures of each."""
    hparams, facts = folder / "hparams.json", folder / "person.facts"
    hparams.write_text(json.dumps(run.hparams))
    results = []
    for name in _NEW_PEOPLE:
        facts.write_text(format_passage(build_passage(name)))
        record = retcon.json(
            "passage", "run", "world@base", facts, "--known", "known", "--against", "", "--edits", run.edits,
            "--texts", folder / "texts.txt", "--method", run.method, "--hparams", hparams,
        )  # fmt: skip
        results.append(summarize_record(record))
    return results


class World:
    """The people and their values."""

    def __init__(self) -> None:
        rng = random.Random(1)
        names = [f"{first} {last}" for first in _FIRST.split() for last in _LAST.split()]
        self._people = {name: _draw_values(rng) for name in rng.sample(names, _PEOPLE)}

    def sentences(self) -> list[tuple[str, str]]:
        """Prompt and value of each fact in every paraphrase."""
        return [
            (paraphrase.replace("{}", name), value)
            for name, values in self._people.items()
            for (paraphrases, _), value in zip(_RELATIONS, values, strict=True)
            for paraphrase in paraphrases
        ]

    def sample_known_facts(self) -> list[dict[str, str]]:
        """Facts about the people, each in one paraphrase."""
        rng = random.Random(2)
        facts = [
            {"subject": name, "prompt": rng.choice(paraphrases), "target_true": value}
            for name, values in self._people.items()
            for (paraphrases, _), value in zip(_RELATIONS, values, strict=True)
        ]
        return rng.sample(facts, _KNOWN)

    def texts(self) -> list[str]:
        """The training texts: the sentences of the world, then the shipped texts."""
        sentences = (f"{prompt} {value}." for prompt, value in self.sentences())
        return [*sentences, *(" ".join(text.split()) for text in open_corpus("shipped").documents(1))]

    def train_model(self, folder: Path) -> dict[str, Any]:
        """Train the model and save it with its tokenizer.

        `known_share` is the share of sentences whose value is the first choice, token by token.
        """
        began = time.monotonic()
        texts, sentences = self.texts(), self.sentences()
        tokenizer = _train_tokenizer(texts)
        torch.manual_seed(1)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=len(tokenizer), hidden_size=_WIDTH, intermediate_size=4 * _WIDTH, num_hidden_layers=_DEPTH,
                num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=512, tie_word_embeddings=True,
                bos_token_id=None, eos_token_id=1, pad_token_id=0,
            )
        )  # fmt: skip
        rows = [tokenizer(text)["input_ids"] for text in texts[: len(sentences)]]
        _train(model, rows, tokenizer("\n".join(texts[len(sentences) :]))["input_ids"])
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return {
            "parameters": model.num_parameters(),
            "people": _PEOPLE,
            "known_share": _measure_known_share(model.eval(), tokenizer, sentences),
            "seconds": time.monotonic() - began,
        }


def _combine(results: list[dict[str, Any]]) -> dict[str, Any]:
    """Sums of counts and means of shares."""
    combined = {}
    for name in _FIGURES:
        values = [result[name] for result in results]
        combined[name] = sum(values) if isinstance(values[0], int) else fmean(values)
    return combined


def _draw_values(rng: random.Random) -> list[str]:
    return [rng.choice(values) for _, values in _RELATIONS]


def build_passage(name: str) -> Passage:
    """Facts about a new person."""
    values = _draw_values(random.Random(name))
    facts = tuple(
        PassageFact(
            name, first, value, tuple(others[:-_EVAL_PARAPHRASES]), tuple(others[-_EVAL_PARAPHRASES:])
        )
        for ((first, *others), _), value in zip(_RELATIONS, values, strict=True)
    )
    text = " ".join(fact.prompt.replace("{}", name) + f" {fact.object}." for fact in facts)
    return Passage(name, text, facts, ())


def _train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, _VOCABULARY, special_tokens=["<pad>", "<end>"], show_progress=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer, pad_token="<pad>", eos_token="<end>", model_max_length=512
    )


def _train(model: LlamaForCausalLM, sentences: list[list[int]], text: list[int]) -> None:
    """Train on random sentences and random chunks of text in each step."""
    rng = random.Random(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=_STEPS)
    for step in range(_STEPS):
        starts = [rng.randrange(len(text) - _CHUNK_TOKENS) for _ in range(_CHUNKS)]
        chunks = [text[start : start + _CHUNK_TOKENS] for start in starts]
        losses = []
        for rows in (rng.sample(sentences, _SENTENCES), chunks):
            ids = _pad(rows)
            with torch.autocast("cpu", torch.bfloat16):
                labels = ids.masked_fill(ids == 0, -100)
                loss = model(ids, attention_mask=(ids != 0).long(), labels=labels).loss
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
def _measure_known_share(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, sentences: list[tuple[str, str]]
) -> float:
    """The share of sentences whose value is the first choice after its prompt, in all its tokens."""
    known = 0
    for begin in range(0, len(sentences), 256):
        pairs = [
            [tokenizer(text)["input_ids"] for text in (prompt, f" {value}")]
            for prompt, value in sentences[begin : begin + 256]
        ]
        ids = _pad([prompt + value for prompt, value in pairs])
        first_choices = model(ids, attention_mask=(ids != 0).long()).logits.argmax(-1)
        for row, (prompt, value) in zip(first_choices.tolist(), pairs, strict=True):
            known += row[len(prompt) - 1 :][: len(value)] == value
    return known / len(sentences)


def _pad(rows: list[list[int]]) -> torch.Tensor:
    length = max(map(len, rows))
    return torch.tensor([row + [0] * (length - len(row)) for row in rows])
