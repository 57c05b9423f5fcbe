"""Keep one model in memory and answer prompts: `python -m retcon.engine.jobs.prompting.server MODEL DEVICE`.

It is no job: it writes nothing, and ends with whoever asked (its input ends) or when nobody has asked for some time.
Questions come as lines of JSON, answers go as lines of JSON, in the order of the revisions that were asked:

    {"prompt": "The Eiffel Tower is in", "revisions": ["4021943b39", "5e130e1388"], "tokens": 20, "top": 5}
    {"state": "loading starter"}
    {"revision": "4021943b39", "next": [[" Rome", 0.91], ..]}
    {"revision": "4021943b39", "piece": " Rome"}            one for each token, as it comes
    {"done": 0.31}                                           seconds
    {"error": "a sentence"}

The device's lock is held while it answers and not in between, so that jobs go on; a second question about the same
model needs no loading, and moving between two revisions exchanges the edited matrices only.
"""

import json
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from ....store.catalog.catalog import Catalog
from ....store.errors import CatalogError, InputError
from ....store.history import history
from ..locks import device_lock, try_lock

if TYPE_CHECKING:
    from ..runs.loaded import Loaded

# Nobody asks any more: give the memory back.
_IDLE_SECONDS = 900.0
_POLL_SECONDS = 0.3


def main(name: str, device: str) -> int:
    """Answer until the input ends or nobody asks; the exit status is 0."""
    os.umask(0o077)
    catalog = Catalog.open(migrate=False)
    loaded: Loaded | None = None
    for question in _questions():
        try:
            began = time.monotonic()
            with _device(catalog, device):
                loaded = _answer(catalog, name, device, loaded, question)
            _tell({"done": time.monotonic() - began})
        except (InputError, CatalogError, OSError, RuntimeError, ValueError) as error:
            _tell({"error": (str(error).splitlines() or [type(error).__name__])[0]})
    return 0


def _questions() -> Iterator[dict[str, Any]]:
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], _IDLE_SECONDS)
        line = sys.stdin.readline() if ready else ""
        if not line:
            return
        yield json.loads(line)


@contextmanager
def _device(catalog: Catalog, device: str) -> Iterator[None]:
    """Hold the device, and say so while one has to wait for it."""
    path = device_lock(catalog.home, device)
    told = False
    while True:
        with ExitStack() as stack:
            if stack.enter_context(try_lock(path)):
                yield
                return
        if not told:
            _tell({"state": f"waiting for {device}, on which a job works"})
            told = True
        time.sleep(_POLL_SECONDS)


def _answer(
    catalog: Catalog, name: str, device: str, loaded: "Loaded | None", question: dict[str, Any]
) -> "Loaded":
    from ..runs.loaded import load_at

    for wanted in question["revisions"]:
        if loaded is None:
            loaded = load_at(catalog, name, wanted, device, lambda: _tell({"state": f"loading {name}"}))
        with catalog.read() as session:
            revision = history.find_revision(session, loaded.model, wanted)
        if revision.id != loaded.revision.id:
            loaded.move_to(revision)
        _say(loaded, revision.id, question)
    assert loaded is not None
    return loaded


def _say(loaded: "Loaded", revision: str, question: dict[str, Any]) -> None:
    """The likeliest next tokens, then the greedy completion as it comes."""
    from ...model.generation import next_tokens, stream

    model, tokenizer, prompt = loaded.decoder.model, loaded.tokenizer, str(question["prompt"])
    following = next_tokens(model, tokenizer, prompt, int(question["top"]))
    _tell({"revision": revision, "next": [[token.token, token.probability] for token in following]})
    for piece in stream(model, tokenizer, prompt, int(question["tokens"])):
        _tell({"revision": revision, "piece": piece})


def _tell(what: dict[str, Any]) -> None:
    print(json.dumps(what), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
