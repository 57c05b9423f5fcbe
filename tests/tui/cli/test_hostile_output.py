"""Texts of models, users and the hub are printed without their escape sequences and markup."""

import json
import unicodedata
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import text

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Publication
from retcon.store.history import history
from retcon.tests.helpers.app_catalog import FORD, at
from retcon.tests.helpers.app_pilot import AppPilot, open_app
from retcon.tests.helpers.command_line import Retcon, steering
from retcon.tui.cli.commands.ask import print_answers

# Color, clear, title, clipboard (OSC 52), the 8-bit CSI, an 8-bit OSC, a bell, backspaces, CR, bidi, zero width,
# markup of Rich and of Textual with an action, half a surrogate pair cannot be stored.
EVIL = (
    "\x1b[31m[bold red]x[/]\x1b[2J\x1b]0;t\x07\x1b]52;c;cm0gLXJm\x1b\\\x9b1A\x9d0;u\x9c\b\b\r\u202e\u2066\u200b"
    "[@click=app.quit]q[/][link=file:///etc/passwd]l[/link]\n\ttail"
)
SHOWN = "[bold red]x[/]"
# Columns with texts of models, users and the hub, and JSON fields with such texts.
COLUMNS = {
    "model": ("source", "path", "architecture", "dtype"),
    "revision": ("message", "method"),
    "trace": ("noise",),
    "trace_result": ("prompt", "subject", "answer", "expected", "skip_reason"),
    "fact": ("subject", "prompt", "target_true"),
    "fact_set": ("source",),
    "covariance": ("texts", "module"),
    "job": ("activity", "detail", "error", "unit", "device"),
    "publication": ("repo", "url", "tag", "account"),
}
FIELDS = {
    "subject", "prompt", "target_new", "target_true", "completion", "answer", "tokens", "text", "message", "folder",
    "corruption", "facts", "architecture", "embedding", "true", "contexts",
}  # fmt: skip
JSON_COLUMNS = {
    "model": ("anatomy",),
    "revision": ("requests", "contexts", "statistics"),
    "trace": ("protocol",),
    "trace_result": ("tokens",),
    "evaluation": ("protocol", "results"),
    "job": ("spec", "result"),
}


def poisoned(value: Any, inside: bool = False) -> Any:
    """The value with hostile text in every field that can contain text of others."""
    if isinstance(value, dict):
        return {key: poisoned(one, inside or key in FIELDS) for key, one in value.items()}
    if isinstance(value, list):
        return [poisoned(one, inside) for one in value]
    return f"{EVIL}{value}" if inside and isinstance(value, str) else value


@pytest.fixture
def hostile(catalog: Catalog) -> Catalog:
    """A catalog with hostile texts that bypassed every check on import."""
    with catalog.write() as session:
        session.add(
            Publication(id=1, revision=FORD, repo="me/x", commit="c" * 40, kind="adapter", url="https://hub/me/x",
                        account="me", tag=f"edit/{FORD}", created=at(9))
        )  # fmt: skip
        session.flush()
        connection = session.connection()
        for table, columns in COLUMNS.items():
            there = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}
            for column in set(columns) & there:
                connection.execute(
                    text(f"UPDATE {table} SET {column} = :evil || {column} WHERE {column} IS NOT NULL"),
                    {"evil": EVIL},
                )
        for table, columns in JSON_COLUMNS.items():
            there = {row[1] for row in connection.exec_driver_sql(f"PRAGMA table_info({table})")}
            for column in set(columns) & there:
                whole = column in ("tokens", "contexts")
                for rowid, data in connection.exec_driver_sql(f"SELECT rowid, {column} FROM {table}").all():
                    made = json.dumps(poisoned(json.loads(data), whole))
                    connection.execute(
                        text(f"UPDATE {table} SET {column} = :result WHERE rowid = :rowid"),
                        {"result": made, "rowid": rowid},
                    )
    catalog.home.job_log(3).write_text(f"{EVIL}\n" * 3)
    return catalog


def drawn(app: AppPilot) -> Iterator[str]:
    """Every piece of text that is sent to the terminal."""
    for strip in app.app.screen._compositor.render_strips():
        for segment in strip:
            if segment.control is None:
                yield segment.text


def obeyed(app: AppPilot) -> list[str]:
    """Control characters on the screen."""
    return [char for piece in drawn(app) for char in piece if unicodedata.category(char) in ("Cc", "Cf")]


async def test_app_prints_no_control_characters(hostile: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_app(hostile, (140, 40), toasts=True) as app:
        seen = ""
        walks = [
            ("1", "enter", "escape"), ("2", "enter"), ("escape", "c"), ("escape", "G", "enter"), ("l", "j", "escape"),
            ("3", "enter", "escape"), ("4", "j", "enter"), ("escape", "j", "enter"), ("escape", "M"), ("escape", "e"),
            ("escape", "b"), ("escape", "5"), ("j", "enter"), ("escape", "j", "L"), ("escape", "at"), ("escape",),
        ]  # fmt: skip
        for keys in walks:
            await app.press(*keys)
            assert not obeyed(app), (keys, app.screen)
            seen += app.screen
        # The text is visible, and no action was triggered.
        assert SHOWN in seen and "@click" in seen
        assert app.app.is_running
        assert not any(
            style.meta or style.link
            for strip in app.app.screen._compositor.render_strips()
            for segment in strip
            if (style := segment.style) is not None and "app.quit" in str(style.meta)
        )


async def test_compared_answers_print_no_control_characters(
    catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Warm:
        is_alive, model = True, "starter"

        def send(self, request: Any) -> Iterator[dict[str, Any]]:
            yield {"state": EVIL}
            for revision in request.revisions:
                yield {"revision": revision, "next": [[EVIL, 0.5], ["[red]y[/]", 0.1]]}
                for piece in (EVIL, "\x1b", "[31mred", "\x9b", "2J"):  # one that is whole only in two pieces
                    yield {"revision": revision, "piece": piece}
            yield {"error": EVIL}

        def close(self) -> None:
            pass

    async with open_app(catalog, (100, 30)) as app:
        monkeypatch.setattr(app.app, "prompt_client", lambda _model: Warm())
        await app.press("4", "j", "equals_sign", "enter")
        await app.until(lambda: "✗" in app.screen)
        assert not obeyed(app)
        assert SHOWN in app.words


def test_ask_prints_no_control_characters(catalog: Catalog, capsys: pytest.CaptureFixture[str]) -> None:
    made = {
        "prompt": EVIL,
        "answers": [{"revision": FORD, "completion": EVIL, "next": [{"token": EVIL, "probability": 0.5}]}],
    }
    with catalog.read() as session:
        assert history.load_path(session, FORD)
        print_answers(session, made)
    said = capsys.readouterr().out
    assert not steering(said) and said.count(SHOWN) == 3


COMMANDS = (
    "model list", "model show starter", "facts list", "facts show towers", "trace list", "trace show 1", "trace show 2",
    "trace locate 2", "covariance list", "covariance show 1", "history starter", "diff starter@head starter@base",
    "eval list", "eval show 1", "job list", "job show 2", "job show 3", "job log 3", "hub list", "doctor", "catalog gc",
)  # fmt: skip


def test_commands_print_no_control_characters(hostile: Catalog) -> None:
    retcon, seen, raw = Retcon(hostile.home.root), [], []
    for words in COMMANDS:
        said = retcon.say(*words.split())
        assert said.code in (0, 1) and "Traceback" not in said.err, (words, said.err)
        raw += [(words, ascii(line)) for line in (said.out + said.err).split("\n") if steering(line)]
        if SHOWN in said.out:
            seen.append(words)
    assert raw == []
    # Every command that prints such texts prints the visible part.
    assert {"trace show 1", "history starter", "facts show towers", "job log 3", "hub list"} <= set(seen)


def test_json_escapes_control_characters(hostile: Catalog) -> None:
    said = Retcon(hostile.home.root).say("trace", "show", "1", "--json")
    assert "\x1b" not in said.out and "\r" not in said.out
    assert json.loads(said.out)["results"][0]["prompt"].startswith(EVIL)
