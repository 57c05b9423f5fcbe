"""A stand-in for the Hub on the loopback, with the endpoints that huggingface_hub uses, over a real socket.

It tests how retcon uses the client: the requests, their order and number, and the handling of failures. It tests
nothing about the live Hub. Blobs, commits and refs are in memory, so a client that was killed finds its earlier
uploads. Uploads use LFS `basic` or `multipart`, or hf_xet's `local://` store.

The API is at localhost and the storage at 127.0.0.1. Like the storage of the live Hub it is another host, so the
client must not send it the token; the stand-in counts the requests with a token.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from retcon.tests.helpers.hub_http import build_handler
from retcon.tests.helpers.hub_state import HubState


class StandIn(HubState):
    """The running server. `url` is the value for HF_ENDPOINT."""

    def __init__(self, transfer: str = "basic", xet: Path | None = None, role: str = "write") -> None:
        super().__init__(transfer, xet, role)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), build_handler(self))
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True)
        self.thread.start()

    @property
    def port(self) -> int:
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def storage(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@contextmanager
def stand_in(**settings: Any) -> Iterator[StandIn]:
    hub = StandIn(**settings)
    try:
        yield hub
    finally:
        hub.close()
