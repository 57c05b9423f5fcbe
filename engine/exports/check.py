"""Check an export in a fresh process: `python -m retcon.engine.exports.check < CHECK > RESULT`.

The process loads the folder as a user would (transformers; PEFT, merged; the base and its deltas), hashes every tensor,
and scores the requests of the edits. Both documents are JSON: `ExportCheck` and `ExportCheckResult`.
"""

import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from ..errors import InputError

# Completions are generated one by one, unlike scores. This many are enough to read.
_COMPLETIONS = 8
_NEW_TOKENS = 12


@dataclass(frozen=True)
class ExportCheck:
    """The export to load. `form` is checkpoint, adapter or delta.

    `base` is the base's folder, `deltas` the files of the live edits in order, `requests` (prompt, target) pairs.
    """

    form: str
    folder: str
    base: str
    deltas: list[str]
    anatomy: dict[str, Any]
    trust_remote_code: bool
    requests: list[tuple[str, str]]


@dataclass(frozen=True)
class RequestResult:
    """The score of one request on the export. `completion` is None after the first few requests."""

    prompt: str
    target: str
    probability: float
    first_choice: bool
    completion: str | None


@dataclass(frozen=True)
class ExportCheckResult:
    """The fingerprint of the loaded weights, and the scores of the requests.

    Only for an adapter: `disabled_is_base` states that `disable_adapter()` gives exactly the base's logits;
    `unmerged_difference` is the largest difference between the logits of the unmerged and the merged adapter.
    """

    fingerprint: str
    answers: list[RequestResult] = field(default_factory=list)
    disabled_is_base: bool | None = None
    unmerged_difference: float | None = None


def check_export(check: ExportCheck) -> ExportCheckResult:
    """Load an export in a fresh process.

    Raises:
        InputError: it cannot be loaded. The message is that of the process.
        RuntimeError: the process failed.
    """
    process = subprocess.run(
        [sys.executable, "-m", __spec__.name],
        input=TypeAdapter(ExportCheck).dump_json(check).decode(),
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode == 2:
        raise InputError(process.stdout.strip())
    if process.returncode != 0:
        raise RuntimeError(
            f"{check.folder} could not be loaded in a fresh process: {process.stderr.strip()[-2000:]}"
        )
    return TypeAdapter(ExportCheckResult).validate_json(process.stdout)


def main() -> int:
    """Read a check from stdin, and write its result to stdout."""
    check = TypeAdapter(ExportCheck).validate_json(sys.stdin.read())
    try:
        result = _load_and_score(check)
    except InputError as error:
        print(error)
        return 2
    print(TypeAdapter(ExportCheckResult).dump_json(result).decode())
    return 0


def _load_and_score(check: ExportCheck) -> ExportCheckResult:
    from ..model.anatomy import Anatomy
    from ..model.decoder import Decoder
    from ..model.delta import Materializer, concatenate, read_delta
    from ..model.loading import fingerprint, hash_parameters, load_model, load_tokenizer
    from .adapter import load_adapter, merge

    folder = Path(check.folder)
    source = folder if check.form == "checkpoint" else Path(check.base)
    model = load_model(source, "cpu", trust_remote_code=check.trust_remote_code)
    tokenizer = load_tokenizer(source, check.trust_remote_code)
    disabled_is_base, difference = None, None
    if check.form == "delta":
        Materializer(model).set(concatenate(read_delta(folder / name) for name in check.deltas))
    if check.form == "adapter":
        prompts = [prompt for prompt, _ in check.requests[:_COMPLETIONS]]
        base = _compute_logits(model, tokenizer, prompts)
        adapted = load_adapter(model, folder)
        with adapted.disable_adapter():
            disabled = _compute_logits(adapted, tokenizer, prompts)
        disabled_is_base = all(bool((a == b).all()) for a, b in zip(base, disabled, strict=True))
        unmerged = _compute_logits(adapted, tokenizer, prompts)
        model = merge(adapted)
        merged = _compute_logits(model, tokenizer, prompts)
        differences = [(a - b).abs().max().item() for a, b in zip(unmerged, merged, strict=True)]
        difference = max(differences, default=0.0)
    results = _score_requests(Decoder(model, Anatomy(**check.anatomy)), tokenizer, check.requests)
    return ExportCheckResult(fingerprint(hash_parameters(model)), results, disabled_is_base, difference)


def _compute_logits(model: Any, tokenizer: Any, prompts: list[str]) -> list[Any]:
    """Logits at the last position of each prompt, float32 `[vocabulary]`."""
    import torch

    from ..model.tokens import encode_prompt

    with torch.no_grad():
        return [
            model(torch.tensor([encode_prompt(tokenizer, prompt)])).logits[0, -1].float()
            for prompt in prompts
        ]


def _score_requests(decoder: Any, tokenizer: Any, requests: list[tuple[str, str]]) -> list[RequestResult]:
    from ..evaluation.scoring import score_targets
    from ..model.generation import complete

    if not requests:
        return []
    scores = score_targets(decoder, tokenizer, requests)
    first = [prompt for prompt, _ in requests[:_COMPLETIONS]]
    completions: list[str | None] = [*complete(decoder.model, tokenizer, first, _NEW_TOKENS)]
    completions += [None] * (len(requests) - len(first))
    return [
        RequestResult(prompt, target, math.exp(-score.nll), score.first_choice, completion)
        for (prompt, target), score, completion in zip(requests, scores, completions, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(main())
