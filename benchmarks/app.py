"""The costs of the terminal app: first paint, keys, bytes, memory, idle, with 100,000 rows in each list.

    PARTS=start,keys,bytes,jobs,command_line ROWS=100000 make bench BENCH=app

Times are ratios to a bare Textual app in the same run, or medians in the process of the app.
"""

import asyncio
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from retcon.engine.jobs.locks import job_lock_path, try_lock
from retcon.store.catalog.catalog import Catalog
from retcon.store.home import Home

from .large_catalog import build_large_catalog
from .terminal import APP, Terminal

ROWS = int(os.environ.get("ROWS", "100000"))
_PAINT_TIMEOUT_SECONDS = 0.5
_PARTS = ("start", "keys", "bytes", "jobs", "command_line")
_STARTS = int(os.environ.get("STARTS", "9"))
_BARE = (
    "from textual.app import App\nfrom textual.widgets import Static\n"
    "class Bare(App):\n    def compose(self):\n        yield Static('bare ' + 'and ready')\nBare().run()"
)


def run() -> dict[str, Any]:
    """The figures of PARTS, by default of all parts."""
    with tempfile.TemporaryDirectory(prefix="retcon-app-") as folder:
        small = build_large_catalog(Path(folder) / "small", 20)
        large = build_large_catalog(Path(folder) / "large", ROWS)
        parts: dict[str, Callable[[], dict[str, float]]] = {
            "start": lambda: _measure_start(small, large),
            "keys": lambda: asyncio.run(_measure_keys(large)),
            "bytes": lambda: _measure_bytes(large),
            "jobs": lambda: _measure_jobs(small),
            "command_line": lambda: _measure_command_line(small),
        }
        names = os.environ.get("PARTS", ",".join(_PARTS)).split(",")
        return {"app": {"rows": ROWS} | {name: parts[name]() for name in names}}


def _environment(home: Home) -> dict[str, str]:
    return {"RETCON_HOME": str(home.root)}


def _measure_start(small: Home, large: Home) -> dict[str, float]:
    """Seconds from the start of the process to the first rows on the screen. The variants run in turns."""
    bare, few, many, memory = [], [], [], []
    for _ in range(_STARTS):
        with Terminal((sys.executable, "-c", _BARE), {}) as terminal:
            bare.append(terminal.wait_for(b"bare and ready"))
        with Terminal(APP, _environment(small)) as terminal:
            few.append(terminal.wait_for(b"model-000019"))
        with Terminal(APP, _environment(large)) as terminal:
            many.append(terminal.wait_for(f"model-{ROWS - 1:06}".encode()))
            terminal.wait_until_idle()
            memory.append(terminal.memory)
    return {
        "bare_seconds": statistics.median(bare),
        "app_seconds": statistics.median(many),
        "ratio": statistics.median(many) / statistics.median(bare),
        "ratio_with_20_rows": statistics.median(few) / statistics.median(bare),
        "memory_mb": statistics.median(memory),
    }


async def _measure_keys(home: Home) -> dict[str, float]:
    """Milliseconds from a key to the next paint, in the process of the app, at 80x24."""
    from retcon.tui.app.app import RetconApp

    catalog = Catalog.open(home)
    app = RetconApp(catalog)
    last_paint = 0.0
    textual_display = app._display

    def display(*arguments: Any) -> None:
        nonlocal last_paint
        textual_display(*arguments)
        last_paint = time.perf_counter()

    app._display = display  # type: ignore[method-assign]

    async def press(key: str, wait: float) -> float:
        began = time.perf_counter()
        app.simulate_key(key)
        await asyncio.sleep(0)
        while last_paint <= began and time.perf_counter() < began + _PAINT_TIMEOUT_SECONDS:
            await asyncio.sleep(0.0005)
        # A key that repaints nothing, such as a page at the end of a short list, has no time.
        first = last_paint if last_paint > began else math.inf
        await asyncio.sleep(wait)
        return 1000 * (first - began)

    async with app.run_test(size=(80, 24)) as pilot:
        await asyncio.sleep(1.0)
        await app.workers.wait_for_complete()
        for key in "54321":
            await press(key, 1.0)
        await pilot.press("5")
        await asyncio.sleep(0.5)
        moves = [await press("j", 0.02) for _ in range(60)]
        pages = [await press("pagedown", 0.02) for _ in range(40)]
        await press("plus", 0.3)
        list_pages = [await press("pagedown", 0.02) for _ in range(40)]
        await press("plus", 0.3)
        tabs = [await press(key, 0.3) for key in "12345" * 4]
    catalog.close()
    return {
        "move_ms": statistics.median(moves),
        "page_ms": statistics.median(pages),
        "page_full_list_ms": statistics.median(list_pages),
        "tab_ms": statistics.median(tabs),
    }


def _measure_bytes(home: Home) -> dict[str, float]:
    """Bytes to the terminal at 80x24: cursor moves, moves that scroll the list, pages of the full list, idle."""
    with Terminal((*APP, "ui", "jobs"), _environment(home)) as terminal:
        terminal.wait_for(f"Tower {ROWS}".encode())
        terminal.wait_until_idle()
        terminal.press("+")
        terminal.wait_until_idle()

        def measure_press(keys: str, times: int, wait: float) -> float:
            sizes = []
            for _ in range(times):
                terminal.press(keys)
                sizes.append(len(terminal.read(wait)))
            return statistics.median(sizes)

        moves = measure_press("j", 12, 0.08)
        terminal.press("\x04\x04")
        terminal.wait_until_idle()
        scrolling_moves = measure_press("j", 12, 0.08)
        pages = measure_press("\x04", 12, 0.08)
        terminal.wait_until_idle()
        terminal.press("+")
        terminal.wait_until_idle()
        terminal.press("j")
        move_and_detail = len(terminal.read(1.0))
        terminal.wait_until_idle()
        cpu = terminal.cpu_seconds
        idle = len(terminal.read(10.0))
        used = (terminal.cpu_seconds - cpu) / 10.0
        memory = terminal.memory
    return {
        "move": moves, "scrolling_move": scrolling_moves, "page": pages, "move_and_detail": move_and_detail,
        "idle_10_s": idle, "idle_cpu_percent": 100 * used, "memory_mb_at_end": memory,
    }  # fmt: skip


def _measure_jobs(home: Home) -> dict[str, float]:
    """The app with running jobs that save their progress four times a second. This process saves it for them."""
    catalog = Catalog.open(home)
    ids = (17, 18, 19, 20)
    with ExitStack() as locks:
        for id in ids:
            locks.enter_context(try_lock(job_lock_path(home, id)))
        _save_progress(catalog, ids, 0)
        with Terminal((*APP, "ui", "jobs"), _environment(home)) as terminal:
            terminal.wait_for(b"4 running")
            terminal.wait_until_idle(0.6)
            bytes_of_two, _ = _measure_while(terminal, lambda step: _save_progress(catalog, ids[:2], step))
            _, cpu_of_four = _measure_while(terminal, lambda step: _save_progress(catalog, ids, step))
            delays = []
            for step in range(12):
                terminal.read(0.17 + 0.031 * step)
                percent = 20 + 5 * step
                began = time.perf_counter()
                _save_progress(catalog, ids[-1:], 10 * percent)
                terminal.wait_for(f"{percent}%".encode())
                delays.append(time.perf_counter() - began)
    catalog.close()
    return {
        "bytes_per_second_with_two": bytes_of_two, "cpu_percent_with_four": cpu_of_four,
        "progress_to_screen_ms": 1000 * statistics.median(delays), "progress_to_screen_ms_worst": 1000 * max(delays),
    }  # fmt: skip


def _save_progress(catalog: Catalog, ids: tuple[int, ...], done: int) -> None:
    from sqlalchemy import text

    with catalog.write() as session:
        for id in ids:
            session.connection().execute(
                text("UPDATE job SET state = 'running', owner = 'x', done = :done, total = 1000, rate = 4, "
                     "seconds_left = :left, unit = 'facts' WHERE id = :id"),
                {"done": done, "left": (1000 - done) / 4, "id": id},
            )  # fmt: skip


def _measure_while(
    terminal: Terminal, write: Callable[[int], None], seconds: float = 10.0
) -> tuple[float, float]:
    """Bytes per second and percent of a core that the app uses while `write` is called four times a second."""
    cpu, sent, steps = terminal.cpu_seconds, 0, round(4 * seconds)
    for step in range(steps):
        write(100 + step)
        sent += len(terminal.read(0.25))
    return sent / seconds, 100 * (terminal.cpu_seconds - cpu) / seconds


def _measure_command_line(home: Home) -> dict[str, float]:
    """Milliseconds of processor time per process."""
    return {
        "version_cpu_ms": _measure_cpu("--version", home=home),
        "job_list_json_cpu_ms": _measure_cpu("job", "list", "--json", home=home),
    }


def _measure_cpu(*words: str, home: Home) -> float:
    seconds = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*APP, *words], env=os.environ | _environment(home), stdout=subprocess.DEVNULL, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return 1000 * statistics.median(seconds)
