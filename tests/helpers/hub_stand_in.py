"""A stand-in for the Hub on the loopback: the endpoints that huggingface_hub was seen to use, over a real socket.

It proves how retcon uses the client: what is sent, in which order, how often, and what becomes of a failure. It does
not prove anything about the live Hub. Blobs that were stored, commits and refs live in memory, so a client that
is killed finds what it had sent before. Uploads go as LFS `basic` or `multipart`, or through hf_xet's own
`local://` store.

Bytes go to and come from 127.0.0.1 while the API answers on localhost: like the live Hub's storage, it is another
host, and must not be shown the token (it counts how often it was).
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

from retcon.tests.helpers.hub_http import handler_of
from retcon.tests.helpers.hub_state import HubState


class StandIn(HubState):
    """The running server; `url` is what HF_ENDPOINT must be."""

    def __init__(self, transfer: str = "basic", xet: Path | None = None, role: str = "write") -> None:
        super().__init__(transfer, xet, role)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler_of(self))
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
