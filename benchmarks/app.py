"""What the terminal app costs: time to the first paint, keys, bytes, memory, idle; with 100,000 rows in each list.

Times are ratios against a bare Textual app in the same run, or medians in the app's own process.
"""

import asyncio
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

from .large_catalog import large_catalog
from .terminal import APP, Terminal

ROWS = 100_000
_STARTS = 9
_BARE = (
    "from textual.app import App\nfrom textual.widgets import Static\n"
    "class Bare(App):\n    def compose(self):\n        yield Static('bare ' + 'and ready')\nBare().run()"
)


def run() -> dict[str, Any]:
    """All figures of the app."""
    with tempfile.TemporaryDirectory(prefix="retcon-app-") as folder:
        small = large_catalog(Path(folder) / "small", 20)
        large = large_catalog(Path(folder) / "large", ROWS)
        figures = {"start": _start(small, large), "keys": asyncio.run(_keys(large)), "bytes": _bytes(large)}
        figures |= {"jobs": _jobs(small), "command_line": _command_line(small)}
        return {"app": {"rows": ROWS, **figures}}


def _environment(home: Home) -> dict[str, str]:
    return {"RETCON_HOME": str(home.root)}


def _start(small: Home, large: Home) -> dict[str, float]:
    """Seconds from the start of the process to the first row on the screen, one after the other in turns."""
    bare, few, many, memory = [], [], [], []
    for _ in range(_STARTS):
        with Terminal((sys.executable, "-c", _BARE), {}) as terminal:
            bare.append(terminal.until(b"bare and ready"))
        with Terminal(APP, _environment(small)) as terminal:
            few.append(terminal.until(b"model-000019"))
        with Terminal(APP, _environment(large)) as terminal:
            many.append(terminal.until(b"model-099999"))
            terminal.quiet()
            memory.append(terminal.memory)
    return {
        "bare_seconds": statistics.median(bare),
        "app_seconds": statistics.median(many),
        "ratio": statistics.median(many) / statistics.median(bare),
        "ratio_with_20_rows": statistics.median(few) / statistics.median(bare),
        "memory_mb": statistics.median(memory),
    }


async def _keys(home: Home) -> dict[str, float]:
    """Milliseconds from a key to the paint that answers it, in the app's process, at 80x24."""
    from retcon.tui.app.app import RetconApp

    catalog = Catalog.open(home)
    app = RetconApp(catalog)
    painted = 0.0
    show = app._display

    def display(*arguments: Any) -> None:
        nonlocal painted
        show(*arguments)
        painted = time.perf_counter()

    app._display = display  # type: ignore[method-assign]

    async def press(key: str, wait: float) -> float:
        began = time.perf_counter()
        app.simulate_key(key)
        await asyncio.sleep(0)
        for _ in range(200):
            if painted > began:
                break
            await asyncio.sleep(0.0005)
        first = painted
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
        full_pages = [await press("pagedown", 0.02) for _ in range(40)]
        await press("plus", 0.3)
        tabs = [await press(key, 0.3) for key in "12345" * 4]
    catalog.close()
    return {
        "move_ms": statistics.median(moves),
        "page_ms": statistics.median(pages),
        "page_of_the_list_alone_ms": statistics.median(full_pages),
        "tab_ms": statistics.median(tabs),
    }


def _bytes(home: Home) -> dict[str, float]:
    """Bytes to the terminal at 80x24: moves within the list, moves that scroll it, pages of the list alone, idle."""
    with Terminal((*APP, "ui", "jobs"), _environment(home)) as terminal:
        terminal.until(b"Tower 100000")
        terminal.quiet()
        terminal.press("+")
        terminal.quiet()

        def each(keys: str, times: int, wait: float) -> float:
            sizes = []
            for _ in range(times):
                terminal.press(keys)
                sizes.append(len(terminal.read(wait)))
            return statistics.median(sizes)

        moves = each("j", 12, 0.08)
        terminal.press("\x04\x04")
        terminal.quiet()
        scrolling = each("j", 12, 0.08)
        pages = each("\x04", 12, 0.08)
        terminal.quiet()
        terminal.press("+")
        terminal.quiet()
        terminal.press("j")
        resting = len(terminal.read(1.0))
        terminal.quiet()
        cpu = terminal.cpu_seconds
        idle = len(terminal.read(10.0))
        used = (terminal.cpu_seconds - cpu) / 10.0
        memory = terminal.memory
    return {
        "move": moves, "move_that_scrolls_the_list": scrolling, "page": pages,
        "move_and_the_detail_where_it_rests": resting, "idle_10_s": idle, "idle_cpu_percent": 100 * used,
        "memory_mb_after_it": memory,
    }  # fmt: skip


def _jobs(home: Home) -> dict[str, float]:
    """Four jobs that write their progress four times a second; nothing of this process is in the app's figures."""
    catalog = Catalog.open(home)
    ids = (17, 18, 19, 20)
    with ExitStack() as held:
        for id in ids:
            held.enter_context(try_lock(job_lock_path(home, id)))
        _progress(catalog, ids, 0)
        with Terminal((*APP, "ui", "jobs"), _environment(home)) as terminal:
            terminal.until(b"4 running")
            terminal.quiet(0.6)
            two = _while(terminal, lambda step: _progress(catalog, ids[:2], step))
            four = _while(terminal, lambda step: _progress(catalog, ids, step))
            seen = []
            for step in range(12):
                terminal.read(0.17 + 0.031 * step)
                percent = 20 + 5 * step
                began = time.perf_counter()
                _progress(catalog, ids[-1:], 10 * percent)
                terminal.until(f"{percent}%".encode())
                seen.append(time.perf_counter() - began)
    catalog.close()
    return {
        "bytes_a_second_with_two": two[0], "cpu_percent_with_four": four[1],
        "progress_to_screen_ms": 1000 * statistics.median(seen), "progress_to_screen_ms_worst": 1000 * max(seen),
    }  # fmt: skip


def _progress(catalog: Catalog, ids: tuple[int, ...], done: int) -> None:
    from sqlalchemy import text

    with catalog.write() as session:
        for id in ids:
            session.connection().execute(
                text("UPDATE job SET state = 'running', owner = 'x', done = :done, total = 1000, rate = 4, "
                     "seconds_left = :left, unit = 'facts' WHERE id = :id"),
                {"done": done, "left": (1000 - done) / 4, "id": id},
            )  # fmt: skip


def _while(terminal: Terminal, write: Callable[[int], None], seconds: float = 10.0) -> tuple[float, float]:
    """(bytes a second, per cent of a core) of the app while something is written four times a second."""
    cpu, sent, steps = terminal.cpu_seconds, 0, round(4 * seconds)
    for step in range(steps):
        write(100 + step)
        sent += len(terminal.read(0.25))
    return sent / seconds, 100 * (terminal.cpu_seconds - cpu) / seconds


def _command_line(home: Home) -> dict[str, float]:
    """Processor milliseconds of whole processes."""
    return {
        "version_cpu_ms": _cpu("--version", home=home),
        "job_list_json_cpu_ms": _cpu("job", "list", "--json", home=home),
    }


def _cpu(*words: str, home: Home) -> float:
    used = []
    for _ in range(7):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(
            [*APP, *words], env=os.environ | _environment(home), stdout=subprocess.DEVNULL, check=True
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return 1000 * statistics.median(used)
