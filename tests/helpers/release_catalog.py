"""Make the catalog that is checked in for a release: `python -m retcon.tests.helpers.release_catalog`.

Run it once, before the release is tagged, and never again for that version: later versions must open the same bytes.
"""

import json
import sqlite3
import tempfile
import zipfile
from pathlib import Path

from retcon import __version__
from retcon.tests.helpers.command_line import FIELD, Retcon, write_facts
from retcon.tests.helpers.families import tiny_model
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer

FOLDER = Path(__file__).parents[1] / "store" / "catalog" / "released"
PROMPT = ("--prompt", "The Eiffel Tower is located in the city of", "--subject", "Eiffel Tower")
PASSAGE = "# Toyota Camry\n- is produced by | Italy\n  ? {} is in\n\n## Questions\nWhere is the Toyota Camry? | Italy\n"


def main() -> None:
    """Run a command of each kind on the tiny model and pack the home, without weights, logs and locks."""
    with tempfile.TemporaryDirectory() as where:
        folder = Path(where)
        retcon = Retcon(folder / "home")
        fill(retcon, folder)
        with sqlite3.connect(retcon.home / "catalog.db") as connection:
            connection.execute("VACUUM INTO ?", (str(folder / "catalog.db"),))
        connection.close()
        FOLDER.mkdir(exist_ok=True)
        with zipfile.ZipFile(FOLDER / f"{__version__}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(folder / "catalog.db", "catalog.db")
            for path in sorted(retcon.home.glob("artifacts/*/*")):
                archive.write(path, path.relative_to(retcon.home))


def fill(retcon: Retcon, folder: Path) -> None:
    """Add a model, facts, a covariance, traces, edits, a revert, evaluations, a sweep and a passage."""
    tiny_model("llama").save_pretrained(folder / "tiny")
    word_tokenizer(start=True).save_pretrained(folder / "tiny")
    texts = folder / "texts.jsonl"
    words = f"{PROMPT[1]} Paris Rome Berlin France Italy born he she plays".split()
    rows = [" ".join(words[(3 * n + n // 5 * i) % len(words)] for i in range(30)) for n in range(120)]
    texts.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    hparams = folder / "hparams.json"
    hparams.write_text(json.dumps(FIELD | {"layers": [1]}))
    joint = folder / "joint.json"
    joint.write_text(json.dumps({"layers": [1], "num_steps": 2}))
    (folder / "camry.facts").write_text(PASSAGE)
    fact = {
        "subject": "Toyota Camry",
        "prompt": "{} is produced by",
        "target_new": "Italy",
        "target_true": "Toyota",
    }
    retcon("model", "add", folder / "tiny", "--name", "tiny")
    retcon("facts", "import", write_facts(folder / "facts.json", [fact]), "--name", "facts")
    retcon("covariance", "run", "tiny", "--layers", 1, "--texts", texts, "--max-tokens", 2500)
    retcon("trace", "run", "tiny", *PROMPT, "--samples", 2, "--noise", "0.4", "--kinds", "hidden,mlp")
    retcon("trace", "run", "tiny", *PROMPT, "--swap-subject", "Toyota Camry", "--kinds", "mlp")
    retcon("edit", "run", "tiny", *PROMPT, "--target", "Rome", "--hparams", hparams, "-m", "first")
    retcon("edit", "run", "tiny", "--facts", "facts", "--hparams", hparams, "-m", "second")
    retcon("eval", "run", "tiny", "--facts", "facts", "--suite", "quick")
    retcon("edit", "sweep", "tiny", "--facts", "facts", "--layers", "1", "--hparams", hparams)
    retcon("revert", "tiny", "head~1", "-m", "third")
    retcon("passage", "run", "tiny", folder / "camry.facts", "--hparams", joint, "--against", "prompt")
    retcon("rollback", "tiny", "base")


if __name__ == "__main__":
    main()
