"""An export seen by a process that did not write it: `python -m retcon.engine.exports.check < TASK > FOUND`.

It loads what lies in the folder as a stranger would (transformers; PEFT, merged; the base and its deltas), hashes every
tensor, and asks the edits once more. Both documents are JSON, see `Task` and `Found`.
"""

import json
import math
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError

# Completions are written one after another, scores come in batches: so many are enough to be read.
_COMPLETIONS = 8
_NEW_TOKENS = 12


@dataclass(frozen=True)
class Task:
    """What to load. `base` is the base's folder, `deltas` the files of the live edits in order, `asked` the requests'
    (prompt, target) pairs."""

    what: str
    folder: str
    base: str
    deltas: list[str]
    anatomy: dict[str, Any]
    trust_remote_code: bool
    asked: list[tuple[str, str]]


@dataclass(frozen=True)
class Asked:
    """One request asked of the export; `completion` is None past the first few."""

    prompt: str
    target: str
    probability: float
    first_choice: bool
    completion: str | None


@dataclass(frozen=True)
class Found:
    """What the process saw. The last two are of an adapter only: whether `disable_adapter()` gave the base's logits to
    the bit, and how far the unmerged adapter's are from the merged ones."""

    fingerprint: str
    answers: list[Asked] = field(default_factory=list)
    disabled_is_base: bool | None = None
    unmerged_difference: float | None = None


def check_export(task: Task) -> Found:
    """Have a fresh process load an export.

    Raises:
        InputError: it could not be loaded; the message is that process's.
        RuntimeError: the process died.
    """
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=json.dumps(asdict(task)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 2:
        raise InputError(done.stdout.strip())
    if done.returncode != 0:
        raise RuntimeError(
            f"{task.folder} could not be loaded in a fresh process: {done.stderr.strip()[-2000:]}"
        )
    found = json.loads(done.stdout)
    return Found(**found | {"answers": [Asked(**one) for one in found["answers"]]})


def main() -> int:
    """Read a task from stdin, write what was found to stdout."""
    record = json.load(sys.stdin)
    task = Task(**record | {"asked": [(prompt, target) for prompt, target in record["asked"]]})
    try:
        found = _look(task)
    except InputError as error:
        print(error)
        return 2
    print(json.dumps(asdict(found)))
    return 0


def _look(task: Task) -> Found:
    from ..model.anatomy import Anatomy
    from ..model.decoder import Decoder
    from ..model.delta import Materializer, concatenate, read_delta
    from ..model.loading import fingerprint, hash_parameters, load_model, load_tokenizer
    from .adapter import load_adapter, merge

    folder, base = Path(task.folder), Path(task.base)
    whole = task.what == "checkpoint"
    model = load_model(folder if whole else base, "cpu", trust_remote_code=task.trust_remote_code)
    tokenizer = load_tokenizer(folder if whole else base, task.trust_remote_code)
    disabled, difference = None, None
    if task.what == "delta":
        Materializer(model).set(concatenate(read_delta(folder / name) for name in task.deltas))
    if task.what == "adapter":
        prompts = [prompt for prompt, _ in task.asked[:_COMPLETIONS]]
        plain = _logits(model, tokenizer, prompts)
        adapted = load_adapter(model, folder)
        with adapted.disable_adapter():
            disabled = all(
                _same(a, b) for a, b in zip(plain, _logits(adapted, tokenizer, prompts), strict=True)
            )
        unmerged = _logits(adapted, tokenizer, prompts)
        model = merge(adapted)
        merged = _logits(model, tokenizer, prompts)
        differences = [(a - b).abs().max().item() for a, b in zip(unmerged, merged, strict=True)]
        difference = max(differences, default=0.0)
    answers = _answers(Decoder(model, Anatomy.from_dict(task.anatomy)), tokenizer, task.asked)
    return Found(fingerprint(hash_parameters(model)), answers, disabled, difference)


def _logits(model: Any, tokenizer: Any, prompts: list[str]) -> list[Any]:
    """The last position's logits of each prompt, float32 `[vocabulary]`."""
    import torch

    from ..model.tokens import encode_prompt

    with torch.no_grad():
        return [
            model(torch.tensor([encode_prompt(tokenizer, prompt)])).logits[0, -1].float()
            for prompt in prompts
        ]


def _same(a: Any, b: Any) -> bool:
    return bool((a == b).all())


def _answers(decoder: Any, tokenizer: Any, asked: list[tuple[str, str]]) -> list[Asked]:
    from ..evaluation.scoring import score_targets
    from ..model.generation import complete

    if not asked:
        return []
    scores = score_targets(decoder, tokenizer, asked)
    first = [prompt for prompt, _ in asked[:_COMPLETIONS]]
    completions: list[str | None] = [*complete(decoder.model, tokenizer, first, _NEW_TOKENS)]
    completions += [None] * (len(asked) - len(first))
    return [
        Asked(prompt, target, math.exp(-score.nll), score.first_choice, completion)
        for (prompt, target), score, completion in zip(asked, scores, completions, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
