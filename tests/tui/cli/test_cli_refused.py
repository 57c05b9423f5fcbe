"""Commands that are refused without a job: one sentence, an exit code, and an unchanged catalog."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retcon.store.catalog.catalog import Catalog
from retcon.store.catalog.tables import Revision
from retcon.store.history import history
from retcon.store.home import Home
from retcon.tests.helpers.command_line import RETCON, Retcon, Said

Refused = Callable[..., str]
PROMPT = ("--prompt", "The Eiffel Tower is in", "--subject", "The Eiffel Tower")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["model", "show", "nobody"], "no model 'nobody'"),
        (["ui", "nowhere"], "'nowhere' is not a place"),
        (["ui", "jobs/x"], "is not a number"),
        (["ui", "jobs/1"], "see `retcon job list`"),
        (["undo", "nobody"], "no model 'nobody'"),
        (["undo", "tiny"], "nothing to undo"),
        (["redo", "tiny"], "nothing to redo"),
        (["ask", "nobody", "The"], "no model 'nobody'"),
        (["ask", "tiny@ffffff", "The"], "no revision 'ffffff'"),
        (["ask", "tiny@f", "The"], "too short"),
        (["ask", "tiny@", "The"], "MODEL@REVISION"),
        (["ask", "tiny@base~1", "The"], "before the base"),
        (["ask", "tiny", "  "], "prompt is empty"),
        (["ask", "tiny", "The", "--device", "tpu:0"], "device 'tpu:0' does not exist"),
        (["trace", "run", "tiny", "--prompt", "The Tower is in", "--subject", "Louvre"], "not in the prompt"),
        (
            ["trace", "run", "tiny", "--prompt", "the tower is in", "--subject", "Tower"],
            "upper and lower case",
        ),
        (["trace", "run", "tiny", "--prompt", "", "--subject", "Tower"], "prompt is empty"),
        (["trace", "run", "tiny", "--prompt", "The Tower is in"], "subject is empty"),
        (["trace", "run", "tiny"], "give either"),
        (["trace", "run", "tiny", "--facts", "none"], "no fact set 'none'"),
        (["trace", "run", "tiny", "--facts", "known", "--kinds", "hidden,head"], "not a valid list of kinds"),
        (["trace", "show", "7"], "trace 7 does not exist"),
        (["trace", "locate", "7"], "trace 7 does not exist"),
        (["trace", "plot", "7"], "trace 7 does not exist"),
        (["covariance", "run", "tiny", "--layers", "2-4"], "layer 4 is out of range"),
        (["covariance", "run", "tiny", "--layers", "3-1"], "not a valid list of layers"),
        (["covariance", "run", "tiny", "--layers", "0-99999999999"], "not a valid list of layers"),
        (["covariance", "show", "7"], "covariance 7 does not exist"),
        (["edit", "run", "tiny", *PROMPT, "--target", ""], "--target is empty"),
        (["edit", "run", "tiny", *PROMPT, "--target", "   "], "--target is empty"),
        (["edit", "run", "tiny", *PROMPT], "--target"),
        (["edit", "run", "tiny", "--facts", "known"], "nothing to write"),
        (["edit", "run", "tiny", *PROMPT, "--target", "Rome", "--seed", "-1"], "--seed"),
        (["eval", "show", "7"], "evaluation 7 does not exist"),
        (["eval", "run", "tiny", "--facts", "none"], "no fact set 'none'"),
        (["rollback", "tiny", "ffffff"], "no revision 'ffffff'"),
        (["revert", "tiny", "base"], "is the base"),
        (["diff", "tiny@base", "other@base"], "two models"),
        (["export", "tiny@ffffff", "out"], "no revision 'ffffff'"),
        (["job", "show", "7"], "no job 7"),
        (["job", "show", str(10**30)], "an id must be"),
        (["job", "resume", "7"], "no job 7"),
        (["model", "add", "starter", "--name", "tiny"], "named 'tiny' exists already"),
        (["model", "add", "starter", "--name", "star@ter"], "not a valid model name"),
        (["model", "add", "starter", "--name", "../up"], "not a valid model name"),
        (["model", "add", ""], "source is empty"),
        (["facts", "show", "none"], "no fact set 'none'"),
        (["facts", "import", "nowhere.json", "--name", "x"], "cannot be read"),
        (["nonsense"], "No such command"),
        (["model", "list", "--nonsense"], "No such option"),
    ],
    ids=lambda value: " ".join(value)[:60] if isinstance(value, list) else "",
)
def test_wrong_commands_are_refused(words: list[str], says: str, refused: Refused) -> None:
    assert says in refused(*words)


@pytest.fixture(scope="module")
def shared(template_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Retcon:
    """One home for all tests that must not change it, without the job that added the model."""
    retcon = Retcon(template_home).copy(tmp_path_factory.mktemp("refused") / "home")
    retcon("job", "remove", "1")
    return retcon


@pytest.fixture(scope="module")
def refused(shared: Retcon) -> Callable[..., str]:
    """Run a command in this process, and check that it starts no job."""

    def run(*words: object) -> str:
        sentence = Retcon(shared.home).refused(*words)
        assert list((shared.home / "logs").glob("job-[2-9].log")) == []
        return sentence

    return run


def test_process_prints_the_same_refusal(shared: Retcon, refused: Refused) -> None:
    words = ("ask", "tiny@ffffff", "The")
    assert shared.refused(*words) == refused(*words)
    assert shared.json("job", "list") == {"jobs": []}


def test_invalid_utf8_argument_is_refused(shared: Retcon) -> None:
    done = subprocess.run(
        [os.fsencode(RETCON), b"model", b"show", b"caf\xe9"],
        capture_output=True,
        env=shared.environment | {"LC_ALL": "C.UTF-8"},
        check=False,
    )
    said = Said(done.returncode, done.stdout.decode(), done.stderr.decode())
    assert said.code == 2
    assert "not valid text" in said.sentence


def test_ambiguous_revision_prefix_is_refused(retcon: Retcon) -> None:
    catalog = Catalog.open(Home(retcon.home))
    with catalog.write() as session:
        model = history.find_model(session, "tiny")
        for end in ("0", "1"):
            edit = Revision(
                id=f"abc{end}",
                model_id=model.id or 0,
                parent=model.head,
                kind="edit",
                fingerprint="f",
                message="m",
            )
            history.commit_revision(session, model, edit, "edit")
    catalog.close()
    assert "is ambiguous" in retcon.refused("ask", "tiny@abc", "The")
    assert "abc1" in retcon.refused("ask", "tiny@abc", "The")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("[]", "has no records"),
        ('[{"subject": "a", "prompt": "a is"', "not JSON"),
        ('[{"subject": "a", "promt": "a is", "target_true": "b"}]', "'promt' meant"),
        ('[{"subject": "a", "prompt": "b is", "target_true": "b"}]', "not in the prompt"),
        ('[{"subject": "a", "prompt": "a is", "target_new": " "}]', "'target_new' is empty"),
        ('[{"subject": "a", "prompt": "a is", "target_new": 3}]', "is a number"),
        ('[{"subject": "a", "prompt": "a is", "targt_new": "b"}]', "'target_new' meant"),
        ('"just text"', "a string"),
        ("\xff", "no"),
    ],
)
def test_invalid_facts_file_is_refused(text: str, says: str, refused: Refused, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(text, encoding="latin-1")
    sentence = refused("facts", "import", file, "--name", "wrong")
    assert says in sentence
    assert str(file) in sentence


def test_control_characters_in_a_name_are_not_printed(fresh: Retcon, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([{"subject": "a", "prompt": "a is", "target_true": "b"}]))
    fresh("facts", "import", file, "--name", "\x1b[2J[bold red]")
    # The message lists the existing sets. `sentence` checks it for control characters.
    assert "[2J[bold red]" in fresh.refused("facts", "show", "none")


def test_database_of_another_program_is_refused(fresh: Retcon) -> None:
    fresh.home.mkdir(mode=0o700)
    other = sqlite3.connect(fresh.home / "catalog.db")
    other.execute("CREATE TABLE recipe (name TEXT)")
    other.execute("INSERT INTO recipe VALUES ('soup')")
    other.commit()
    other.close()
    assert "another program" in fresh.refused("model", "list", code=1)
    assert fresh.rows() == {"recipe": [{"name": "soup"}]}


def test_corrupt_catalog_is_refused(fresh: Retcon) -> None:
    fresh.home.mkdir(mode=0o700)
    (fresh.home / "catalog.db").write_bytes(b"no database at all" * 100)
    said = fresh.say("model", "list")
    assert said.code == 1
    assert "corrupt" in said.sentence


def test_newer_catalog_is_refused(retcon: Retcon) -> None:
    connection = sqlite3.connect(retcon.home / "catalog.db")
    connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.execute(
        "INSERT INTO app_version (migration, version, created) VALUES ('9999', '42.0', '2030-01-01')"
    )
    connection.commit()
    connection.close()
    sentence = retcon.refused("model", "list", code=1)
    assert "42.0" in sentence
    assert "newer retcon" in sentence


def test_home_that_is_a_file_is_refused(fresh: Retcon) -> None:
    fresh.home.write_text("not a folder")
    assert "RETCON_HOME" in fresh.refused("model", "list")
    assert fresh.home.read_text() == "not a folder"


def test_home_writable_by_others_is_refused(fresh: Retcon) -> None:
    fresh.home.mkdir()
    fresh.home.chmod(0o777)
    assert "chmod 700" in fresh.refused("model", "list")


def test_resume_refuses_a_done_job(retcon: Retcon) -> None:
    assert retcon.job(1)["state"] == "done"
    assert "Job 1 is done" in retcon.refused("job", "resume", 1)


def test_concurrent_commands_create_one_home(fresh: Retcon, tmp_path: Path) -> None:
    file = tmp_path / "facts.json"
    file.write_text(json.dumps([{"subject": "a", "prompt": "a is", "target_true": "b"}]))
    started = [fresh.start("facts", "import", file, "--name", f"set{number}") for number in range(4)]
    for process in started:
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert [one["name"] for one in fresh.json("facts", "list")["sets"]] == [
        f"set{number}" for number in range(4)
    ]
    assert fresh.rows()["alembic_version"] == [{"version_num": "0001"}]


def test_closed_pipe_is_not_an_error(shared: Retcon) -> None:
    shell = f"set -o pipefail; {sys.executable} -c pass; {RETCON} --help | head -1"
    done = subprocess.run(
        [shutil.which("bash") or "bash", "-c", shell],
        capture_output=True,
        text=True,
        env=shared.environment,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: retcon")


def test_remove_needs_a_confirmation(retcon: Retcon) -> None:
    before: Any = retcon.rows()
    said = retcon.say("model", "remove", "tiny")  # its stdin is empty
    assert said.code in (1, 130)
    assert retcon.rows() == before
    done = subprocess.run(
        [RETCON, "model", "remove", "tiny"],
        input="n\n",
        text=True,
        capture_output=True,
        env=retcon.environment,
        check=False,
    )
    assert done.returncode == 1
    assert retcon.rows() == before
