"""Complete one prompt at several revisions of a model, which is loaded once."""

from dataclasses import asdict
from typing import Any

from ....store.history import history
from ...model.generation import answer
from ..specs import AskSpec
from ..worker.running import RunningJob
from .loaded import load


def run(running: RunningJob, spec: AskSpec) -> dict[str, Any]:
    """Complete the prompt at each revision. Returns the answers in the order of the revisions."""
    loaded = load(running, spec.model, spec.revisions[0])
    answers = []
    for name in spec.revisions:
        with running.catalog.read() as session:
            revision = history.find_revision(session, loaded.model, name)
        if revision.id != loaded.revision.id:
            loaded.move_to(revision)
        running.report_activity("completing the prompt", f"revision {revision.id}")
        result = answer(loaded.decoder.model, loaded.tokenizer, spec.prompt, spec.max_new_tokens, spec.top)
        answers.append({"revision": revision.id, **asdict(result)})
    return {"prompt": spec.prompt, "answers": answers}
