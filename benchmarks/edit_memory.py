"""One edit in a process of its own: `edit_memory.py FOLDER METHOD MOMENT` prints its resident memory as JSON."""

import json
import sys
from pathlib import Path

import psutil
from safetensors.torch import load_file

from retcon.engine.covariance.moments import FactoredMoment
from retcon.engine.edits import HPARAMS, METHODS
from retcon.engine.edits.hparams.files import find_preset
from retcon.engine.edits.method import EditTask, Request
from retcon.engine.model.anatomy import find_anatomy
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.generation import sample_contexts
from retcon.engine.model.loading import load_model, load_tokenizer
from retcon.engine.progress import silent


def main(folder: Path, name: str, moment: Path) -> None:
    """Twelve requests (one for ROME) on the model of a folder, with the second moment of a file at every layer."""
    model, tokenizer = load_model(folder, "cpu"), load_tokenizer(folder)
    decoder = Decoder(model, find_anatomy(model))
    hparams = find_preset("starter", name) or HPARAMS[name].parse({}, name)
    contexts = sample_contexts(decoder.model, tokenizer, hparams.contexts, seed=1)
    own = psutil.Process().memory_info().rss
    _forget_peak()
    moments = {layer: FactoredMoment(lambda: load_file(moment)["moment"]) for layer in hparams.layers}
    requests = [
        Request(f"The {what} of {where}", "{} is located in the city of", "Rome")
        for what in ("Tower", "Bridge", "Palace", "Museum")
        for where in ("London", "Paris", "Berlin")
    ][: HPARAMS[name].max_requests]
    METHODS[name].write(EditTask(decoder, tokenizer, requests, moments, hparams, contexts, silent))
    print(
        json.dumps(
            {
                "requests": len(requests),
                "model_mb": own / 1e6,
                "peak_mb": _peak() / 1e6,
                "ratio": _peak() / own,
            }
        )
    )


def _forget_peak() -> None:
    """Let the peak begin anew: loading the model has one of its own."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The largest resident size since then, in bytes (Linux)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
