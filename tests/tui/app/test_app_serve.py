"""`retcon ui --serve`: the same app for a browser, on this machine only."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import aiohttp
import pytest

from retcon.store.catalog.catalog import Catalog

pytestmark = pytest.mark.slow


@pytest.fixture
def port(catalog: Catalog) -> Iterator[int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        found = int(free.getsockname()[1])
    process = subprocess.Popen(
        [sys.executable, "-m", "retcon.tui", "ui", "traces/1", "--serve", "--readonly", "--port", str(found)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"RETCON_HOME": str(catalog.home.root)},
    )  # fmt: skip
    try:
        yield found
    finally:
        process.terminate()
        process.wait()


async def test_serves_the_app_to_a_browser(port: int) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            try:
                page = await (await session.get(f"http://127.0.0.1:{port}/")).text()
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        else:
            raise AssertionError("the server never answered")
        assert "retcon" in page
        seen = b""
        async with session.ws_connect(f"ws://127.0.0.1:{port}/ws?width=100&height=30") as socket:
            async with asyncio.timeout(60):
                while b"iffel" not in seen or b"read-only" not in seen:
                    message = await socket.receive()
                    assert message.type in (aiohttp.WSMsgType.BINARY, aiohttp.WSMsgType.TEXT), message
                    seen += message.data if isinstance(message.data, bytes) else message.data.encode()


async def test_server_listens_on_loopback_only(port: int) -> None:
    async with aiohttp.ClientSession() as session:
        for _ in range(200):
            try:
                await session.get(f"http://127.0.0.1:{port}/")
                break
            except aiohttp.ClientError:
                await asyncio.sleep(0.1)
        with pytest.raises(aiohttp.ClientError):
            await session.get(f"http://127.0.0.2:{port}/")
