"""What a training learns from, and what shall stay: token rows made of a task's requests."""

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import resources

from ..corpus import SHIPPED, open_corpus
from ..tokens import prompt_ids, target_ids
from .method import Task
from .request import ESSENCE, Request

_BARE = "{}"
# Stretches of other text: how many there are to choose from, their tokens, and those at their begin that tell too
# little to predict from.
_STRETCHES, _STRETCH, _OPENING = 64, 32, 4
# How many strangers each wording is told about.
_STRANGERS = 2


@dataclass
class Lesson:
    """Token rows and what the loss reads of them.

    `ids` are rows of token ids; `reads` are (row, position, wanted token, request); `kept` are (row, position) whose
    next-token distribution shall stay. `keyed[row]` tells whether a row is one of the bare prompts with its target,
    and from which position on its keys belong to the request: its subject's first token.
    """

    requests: int
    ids: list[list[int]] = field(default_factory=list)
    reads: list[tuple[int, int, int, int]] = field(default_factory=list)
    kept: list[tuple[int, int]] = field(default_factory=list)
    keyed: dict[int, int] = field(default_factory=dict)

    def keep(self, row: list[int], first: int) -> None:
        """A row whose predictions from position `first` on shall stay."""
        self.kept += [(len(self.ids), position) for position in range(first, len(row))]
        self.ids.append(row)


def lesson(task: Task) -> Lesson:
    """The rows of a task's requests, and of the earlier facts about the same subjects: these are learnt together.

    Raises:
        InputError: a target that tokenises to nothing.
    """
    requests = together(task)
    made = Lesson(len(requests))
    for number, request in enumerate(requests):
        target = target_ids(task.tokenizer, request.target_new)
        told = [(one, _BARE) for one in request.worded()]
        told += [(request, context) for context in task.contexts if context != _BARE]
        for one, context in told:
            located = one.located(task.tokenizer, context)
            if context == _BARE:
                made.keyed[len(made.ids)] = located.begin
            first = len(located.ids) - 1
            made.reads += [(len(made.ids), first + k, token, number) for k, token in enumerate(target)]
            made.ids.append(located.ids + target[:-1])
    for subject in dict.fromkeys(request.subject for request in requests):
        row = prompt_ids(task.tokenizer, ESSENCE.replace("{}", subject))
        made.keep(row, len(row) - 1)
    for context in task.contexts[1:]:
        made.keep(prompt_ids(task.tokenizer, context.replace("{}", "").strip()), 1)
    if task.hparams.kept_rows:
        for row in _stretches(task):
            made.keep(row, _OPENING)
        for row in _strangers(task, requests):
            made.keep(row, len(row) - 1)
    return made


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
        ids = prompt_ids(task.tokenizer, text)
        if len(ids) >= _STRETCH:
            yield ids[:_STRETCH]
            found += 1
        if found == _STRETCHES:
            return


def _strangers(task: Task, requests: list[Request]) -> Iterator[list[int]]:
    """Each wording with the names of others in it: what is true of the subject shall not become true of them."""
    names = json.loads(resources.files("retcon.engine.texts").joinpath("strangers.json").read_text("utf-8"))
    rng = random.Random(task.seed)
    for request in requests:
        for one in request.worded():
            for name in rng.sample(names, _STRANGERS):
                yield prompt_ids(task.tokenizer, one.prompt.replace("{}", name))
