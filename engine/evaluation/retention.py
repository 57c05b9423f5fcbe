"""Do earlier edits still hold after the later ones?"""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from ..model.decoder import Decoder
from ..model.generation import complete
from ..model.limits import fitting
from ..progress import Progress, Report
from .free import begins_with
from .teacher_forced import score_targets

RULE = (
    "each request of the live edits before this revision, but those written anew later: every target token first choice"
    " (RA), greedy generation begins with the target (FR)"
)
_AT_ONCE = 64


@dataclass(frozen=True)
class Earlier:
    """A request of an earlier edit: its revision, the whole prompt, and what was written."""

    edit: str
    prompt: str
    target: str


@dataclass(frozen=True)
class Retained:
    """Whether a request still holds: teacher-forced first choice, and a free generation that begins with it."""

    request: Earlier
    first_choice: bool
    free: bool
    completion: str

    def numbers(self) -> dict[str, float]:
        return {"RA": float(self.first_choice), "FR": float(self.free)}


def ask_again(
    decoder: Decoder,
    tokenizer: PreTrainedTokenizerBase,
    requests: Sequence[Earlier],
    max_new_tokens: int,
    report: Report,
) -> list[Retained]:
    """Ask earlier requests on the model as it is now."""
    found = []
    at_once = fitting(_AT_ONCE)
    for begin in range(0, len(requests), at_once):
        report(Progress(begin, len(requests), "requests", "asking earlier edits again"))
        part = requests[begin : begin + at_once]
        scores = score_targets(decoder, tokenizer, [(one.prompt, one.target) for one in part])
        texts = complete(decoder.model, tokenizer, [one.prompt for one in part], max_new_tokens)
        for one, score, text in zip(part, scores, texts, strict=True):
            found.append(Retained(one, score.first_choice, begins_with(text, one.target), text))
    return found


def by_edit(retained: Sequence[Retained]) -> list[dict[str, object]]:
    """Counts of each edit, in the order of the history."""
    rows = []
    for edit in dict.fromkeys(one.request.edit for one in retained):
        mine = [one for one in retained if one.request.edit == edit]
        kept, free = sum(one.first_choice for one in mine), sum(one.free for one in mine)
        rows.append({"edit": edit, "requests": len(mine), "first_choice": kept, "free": free})
    return rows
