"""Build the token rows that a training learns from and the preservation set, from a task's requests.

If a fact has paraphrases, the end of its target is trained too: a full stop after the object, or the end of a chat
turn. Otherwise free generation would continue past the object.
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
from .hparams.training import TrainingHparams
from .method import ESSENCE_PROMPT, EditTask, Request

_BARE = "{}"
# A paraphrase in this form is also trained as a chat turn.
_QUESTION = re.compile(r"Question: (.+) Answer:")
# Passages of other text: how many, their tokens, and the first tokens after which predictions are too uncertain to use.
_PASSAGES, _PASSAGE_TOKENS, _SKIPPED_TOKENS = 64, 32, 4
# Unrelated subjects per template. More would leave less of a step for other prompts.
_UNRELATED_PER_TEMPLATE = 1


@dataclass
class TrainingExamples:
    """Token rows, and the positions that the loss reads.

    Of the `requests`, the first `new` are written for the first time; the others are rehearsed. `ids` are rows of token
    ids. `reads` are (row, position, target token, request). `preserved[row]` are the positions whose next-token
    distribution is preserved. `key_ranges[row]` is the range of positions whose keys a change may be written over.
    """

    requests: int
    new: int
    ids: list[list[int]] = field(default_factory=list)
    reads: list[tuple[int, int, int, int]] = field(default_factory=list)
    preserved: dict[int, range] = field(default_factory=dict)
    key_ranges: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add_target(self, request: int, prompt: list[int], target: list[int]) -> None:
        """Add a row in which a request's target follows a prompt, teacher-forced."""
        first = len(prompt) - 1
        self.reads += [(len(self.ids), first + k, token, request) for k, token in enumerate(target)]
        self.ids.append(prompt + target[:-1])

    def add_target_at_end(self, request: int, prompt: list[int], target: list[int]) -> None:
        """Add a prompt after whose last token every target token is predicted (FT as published)."""
        self.reads += [(len(self.ids), len(prompt) - 1, token, request) for token in target]
        self.ids.append(prompt)

    def add_preserved(self, row: list[int], first: int) -> None:
        """Add a row whose predictions from position `first` on are preserved."""
        self.preserved[len(self.ids)] = range(first, len(row))
        self.ids.append(row)

    def rows(self, *, new: bool) -> list[int]:
        """The rows with targets of new requests, or of rehearsed ones."""
        return sorted({row for row, _, _, request in self.reads if (request < self.new) == new})


def build_examples(task: EditTask[TrainingHparams]) -> TrainingExamples:
    """Build the rows of a task's requests and of the earlier facts about the same subjects, which are rehearsed.

    Raises:
        InputError: a target tokenizes to nothing.
    """
    requests = with_rehearsed(task)
    examples = TrainingExamples(len(requests), len(task.requests))
    for number, request in enumerate(requests):
        _add_request(examples, task, number, request)
    for subject in dict.fromkeys(request.subject for request in requests):
        row = encode_prompt(task.tokenizer, ESSENCE_PROMPT.replace("{}", subject))
        examples.add_preserved(row, len(row) - 1)
    for context in task.contexts[1:]:
        examples.add_preserved(encode_prompt(task.tokenizer, context.replace("{}", "").strip()), 1)
    if task.hparams.preserved_rows:
        for row in _text_passages(task):
            examples.add_preserved(row, _SKIPPED_TOKENS)
        for row in (*_unrelated_subjects(task, requests), *_other_prompts(task)):
            examples.add_preserved(row, len(row) - 1)
    return examples


def _add_request(
    examples: TrainingExamples, task: EditTask[TrainingHparams], number: int, request: Request
) -> None:
    """Add one request: each template, its prompt in each context, and its questions as chat turns."""
    tokenizer = task.tokenizer
    target = encode_target(tokenizer, request.target_new)
    if task.hparams.predicts_at_prompt_end:
        add = examples.add_target_at_end
    else:
        add = examples.add_target
        if request.train_paraphrases:
            target += _full_stop(tokenizer)
    prompts = [(variant, _BARE) for variant in request.expand_paraphrases()]
    prompts += [(request, context) for context in task.contexts if context != _BARE]
    for variant, context in prompts:
        located = variant.locate(tokenizer, context)
        if context == _BARE:
            examples.key_ranges[len(examples.ids)] = _key_range(task, located, len(target))
        add(number, located.ids, target)
    for question in _find_questions(request) if tokenizer.chat_template else ():
        answer = list(tokenizer(request.target_new.strip(), add_special_tokens=False)["input_ids"])
        add(number, encode_user_turn(tokenizer, question), answer + find_turn_end(tokenizer))


def _key_range(task: EditTask[TrainingHparams], located: LocatedPrompt, target: int) -> tuple[int, int]:
    """The positions of a bare prompt with its target whose keys are used: the subject's, or all from the subject on.

    The first token of a text is left out of a subject, because its state is an attention sink.
    """
    if task.hparams.uses_subject_keys and located.end > 1:
        return max(1, located.begin), located.end
    return located.begin, len(located.ids) + target - 1


def _full_stop(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The tokens of a full stop after a word."""
    word = list(tokenizer("a", add_special_tokens=False)["input_ids"])
    return list(tokenizer("a.", add_special_tokens=False)["input_ids"])[len(word) :]


def _find_questions(request: Request) -> list[str]:
    """The questions among a request's paraphrases."""
    matches = (_QUESTION.match(template) for template in request.train_paraphrases)
    return [match[1].replace("{}", request.subject) for match in matches if match]


def with_rehearsed(task: EditTask[TrainingHparams]) -> list[Request]:
    """The task's requests, then the earlier facts about their subjects that the task does not rewrite."""
    subjects = {request.subject for request in task.requests}
    texts = {request.text for request in task.requests}
    rehearsed = {
        request.text: request
        for request in task.past_requests
        if request.subject in subjects and request.text not in texts
    }
    return [*task.requests, *rehearsed.values()]


def _text_passages(task: EditTask[TrainingHparams]) -> Iterator[list[int]]:
    """The beginnings of shipped texts that are long enough."""
    count = 0
    for text in open_corpus(SHIPPED).documents(task.seed):
        ids = encode_prompt(task.tokenizer, text)
        if len(ids) >= _PASSAGE_TOKENS:
            yield ids[:_PASSAGE_TOKENS]
            count += 1
        if count == _PASSAGES:
            return


def _unrelated_subjects(task: EditTask[TrainingHparams], requests: list[Request]) -> Iterator[list[int]]:
    """Each template with unrelated subjects, so that the fact does not leak to them."""
    names = read_shipped("unrelated_subjects.json")
    rng = random.Random(task.seed)
    for request in requests:
        for variant in request.expand_paraphrases():
            for name in rng.sample(names, _UNRELATED_PER_TEMPLATE):
                yield encode_prompt(task.tokenizer, variant.prompt.replace("{}", name))


def _other_prompts(task: EditTask[TrainingHparams]) -> Iterator[list[int]]:
    """Shipped prompts about other things."""
    for prompt in read_shipped("prompts.json"):
        yield encode_prompt(task.tokenizer, prompt)


def read_shipped(name: str) -> list[str]:
    """Read a list of texts that retcon ships."""
    texts: list[str] = json.loads(
        resources.files("retcon.engine.covariance.texts").joinpath(name).read_text("utf-8")
    )
    return texts
