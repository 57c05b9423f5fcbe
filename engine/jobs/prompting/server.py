"""Keep one model in memory and complete prompts: `python -m retcon.engine.jobs.prompting.server MODEL DEVICE`.

It is not a job: it writes nothing to the catalog. It ends when its input ends, or after a long time without a request.
Requests and messages are lines of JSON; messages come in the order of the request's revisions:

    {"prompt": "The Eiffel Tower is in", "revisions": ["4021943b39", "5e130e1388"], "tokens": 20, "top": 5}
    {"state": "loading starter"}
    {"revision": "4021943b39", "next": [[" Rome", 0.91], ..]}
    {"revision": "4021943b39", "piece": " Rome"}            one per token, as it is generated
    {"done": 0.31}                                           seconds
    {"error": "a sentence"}

The server holds the device's lock only while it handles a request, so that jobs can run in between. A second request
loads no model, and a change of revision replaces only the edited matrices.
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
from ..locks import device_lock_path, try_lock

if TYPE_CHECKING:
    from ..runs.loaded import Loaded

# After so long without a request the server ends, which frees the model's memory.
_IDLE_SECONDS = 900.0
_POLL_SECONDS = 0.3


def main(name: str, device: str) -> int:
    """Handle requests until the input ends or the server is idle for too long; the exit status is 0."""
    os.umask(0o077)
    catalog = Catalog.open(migrate=False)
    loaded: Loaded | None = None
    for request in _read_requests():
        try:
            start = time.monotonic()
            with _hold_device(catalog, device):
                loaded = _complete(catalog, name, device, loaded, request)
            _send({"done": time.monotonic() - start})
        except (InputError, CatalogError, OSError, RuntimeError, ValueError) as error:
            _send({"error": (str(error).splitlines() or [type(error).__name__])[0]})
    return 0


def _read_requests() -> Iterator[dict[str, Any]]:
    while True:
        ready, _, _ = select.select([sys.stdin], [], [], _IDLE_SECONDS)
        line = sys.stdin.readline() if ready else ""
        if not line:
            return
        yield json.loads(line)


@contextmanager
def _hold_device(catalog: Catalog, device: str) -> Iterator[None]:
    """Hold the device's lock. Sends one message if it has to wait for the lock."""
    path = device_lock_path(catalog.home, device)
    is_announced = False
    while True:
        with ExitStack() as stack:
            if stack.enter_context(try_lock(path)):
                yield
                return
        if not is_announced:
            _send({"state": f"waiting for {device}, where a job is running"})
            is_announced = True
        time.sleep(_POLL_SECONDS)


def _complete(
    catalog: Catalog, name: str, device: str, loaded: "Loaded | None", request: dict[str, Any]
) -> "Loaded":
    """Complete the prompt at each revision. Returns the model at the last one."""
    from ..runs.loaded import load_revision

    for revision_name in request["revisions"]:
        if loaded is None:
            loaded = load_revision(
                catalog, name, revision_name, device, lambda: _send({"state": f"loading {name}"})
            )
        with catalog.read() as session:
            revision = history.find_revision(session, loaded.model, revision_name)
        if revision.id != loaded.revision.id:
            loaded.move_to(revision)
        _stream(loaded, revision.id, request)
    assert loaded is not None
    return loaded


def _stream(loaded: "Loaded", revision: str, request: dict[str, Any]) -> None:
    """Send the likeliest next tokens, then the greedy completion token by token."""
    from ...model.generation import next_tokens, stream

    model, tokenizer, prompt = loaded.decoder.model, loaded.tokenizer, str(request["prompt"])
    likeliest = next_tokens(model, tokenizer, prompt, int(request["top"]))
    _send({"revision": revision, "next": [[token.token, token.probability] for token in likeliest]})
    for piece in stream(model, tokenizer, prompt, int(request["tokens"])):
        _send({"revision": revision, "piece": piece})


def _send(message: dict[str, Any]) -> None:
    print(json.dumps(message), flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2]))
