"""What a training learns from, and what shall stay: token rows made of a task's requests.

Of a fact in several wordings the end is learnt, too: a full stop behind the object, or the end of a chat's turn. Else
free generation runs on past it into anything.
"""

import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources

from transformers import PreTrainedTokenizerBase

from ..covariance.corpus import SHIPPED, open_corpus
from ..model.tokens import LocatedPrompt, encode_prompt, encode_target, encode_user_turn, find_turn_end
from .method import Task
from .request import ESSENCE, Request

_BARE = "{}"
# A wording that is a question is learnt as a turn of a chat, too.
_QUESTION = re.compile(r"Question: (.+) Answer:")
# Stretches of other text: how many there are to choose from, their tokens, and those at their begin that tell too
# little to predict from.
_STRETCHES, _STRETCH, _OPENING = 64, 32, 4
# How many strangers each wording is told about. More would leave other prompts less of what a step is held to.
_STRANGERS = 1


@dataclass
class Lesson:
    """Token rows and what the loss reads of them.

    The first `fresh` of the requests are written for the first time, the others were before and are learnt again.
    `ids` are rows of token ids; `reads` are (row, position, wanted token, request); `kept[row]` are the positions whose
    next-token distribution shall stay. `keyed[row]` are the positions, from and up to, whose keys a change may be
    written over; rows without have none.
    """

    requests: int
    fresh: int
    ids: list[list[int]] = field(default_factory=list)
    reads: list[tuple[int, int, int, int]] = field(default_factory=list)
    kept: dict[int, range] = field(default_factory=dict)
    keyed: dict[int, tuple[int, int]] = field(default_factory=dict)

    def learn(self, request: int, prompt: list[int], target: list[int]) -> None:
        """A row in which a request's target follows a prompt."""
        first = len(prompt) - 1
        self.reads += [(len(self.ids), first + k, token, request) for k, token in enumerate(target)]
        self.ids.append(prompt + target[:-1])

    def learnt(self, fresh: bool) -> list[int]:
        """The rows to learn from of the requests that are fresh, or of those that are not."""
        return sorted({row for row, _, _, request in self.reads if (request < self.fresh) == fresh})

    def keep(self, row: list[int], first: int) -> None:
        """A row whose predictions from position `first` on shall stay."""
        self.kept[len(self.ids)] = range(first, len(row))
        self.ids.append(row)


def lesson(task: Task) -> Lesson:
    """The rows of a task's requests, and of the earlier facts about the same subjects: these are learnt together.

    Raises:
        InputError: a target that tokenizes to nothing.
    """
    requests = together(task)
    made = Lesson(len(requests), len(task.requests))
    for number, request in enumerate(requests):
        target = encode_target(task.tokenizer, request.target_new)
        if request.train_paraphrases:
            target += _end(task.tokenizer)
        told = [(one, _BARE) for one in request.worded()]
        told += [(request, context) for context in task.contexts if context != _BARE]
        for one, context in told:
            located = one.located(task.tokenizer, context)
            if context == _BARE:
                made.keyed[len(made.ids)] = _keyed(task, located, len(target))
            made.learn(number, located.ids, target)
        for asked in _asked(request) if task.tokenizer.chat_template else ():
            said = list(task.tokenizer(request.target_new.strip(), add_special_tokens=False)["input_ids"])
            made.learn(number, encode_user_turn(task.tokenizer, asked), said + find_turn_end(task.tokenizer))
    for subject in dict.fromkeys(request.subject for request in requests):
        row = encode_prompt(task.tokenizer, ESSENCE.replace("{}", subject))
        made.keep(row, len(row) - 1)
    for context in task.contexts[1:]:
        made.keep(encode_prompt(task.tokenizer, context.replace("{}", "").strip()), 1)
    if task.hparams.kept_rows:
        for row in _stretches(task):
            made.keep(row, _OPENING)
        for row in (*_strangers(task, requests), *_prompts(task)):
            made.keep(row, len(row) - 1)
    return made


def _keyed(task: Task, located: LocatedPrompt, target: int) -> tuple[int, int]:
    """Of a bare prompt with its target: the subject's tokens, but for the first of all, whose state is a sink; or all
    from the subject on."""
    if task.hparams.keys == "subject" and located.end > 1:
        return max(1, located.begin), located.end
    return located.begin, len(located.ids) + target - 1


def _end(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """A full stop as it stands behind a word."""
    word = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    return list(tokenizer("a.", add_special_tokens=False)["input_ids"])[len(word) :]


def _asked(request: Request) -> list[str]:
    """The questions among a request's wordings."""
    found = (_QUESTION.match(wording) for wording in request.train_paraphrases)
    return [match[1].replace("{}", request.subject) for match in found if match]


def together(task: Task) -> list[Request]:
    """The task's requests, and after them the earlier facts about their subjects that they do not write anew."""
    subjects = {request.subject for request in task.requests}
    written = {request.text for request in task.requests}
    earlier = {one.text: one for one in task.earlier if one.subject in subjects and one.text not in written}
    return [*task.requests, *earlier.values()]


def _stretches(task: Task) -> Iterator[list[int]]:
    """Stretches of the shipped texts, one of each in turn."""
    texts = open_corpus(SHIPPED).documents(task.seed)
    found = 0
    for text in texts:
        ids = encode_prompt(task.tokenizer, text)
        if len(ids) >= _STRETCH:
            yield ids[:_STRETCH]
            found += 1
        if found == _STRETCHES:
            return


def _strangers(task: Task, requests: list[Request]) -> Iterator[list[int]]:
    """Each wording with the names of others in it: what is true of the subject shall not become true of them."""
    names = _shipped("strangers.json")
    rng = random.Random(task.seed)
    for request in requests:
        for one in request.worded():
            for name in rng.sample(names, _STRANGERS):
                yield encode_prompt(task.tokenizer, one.prompt.replace("{}", name))


def _prompts(task: Task) -> Iterator[list[int]]:
    """Shipped prompts about anything else."""
    for prompt in _shipped("prompts.json"):
        yield encode_prompt(task.tokenizer, prompt)


def _shipped(name: str) -> list[str]:
    found: list[str] = json.loads(
        resources.files("retcon.engine.covariance.texts").joinpath(name).read_text("utf-8")
    )
    return found
