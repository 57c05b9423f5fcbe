"""One edit in a new process: `python -m retcon.benchmarks.edit_memory FOLDER METHOD MOMENT [SETTING=NUMBER ..]`.

FOLDER holds the model. MOMENT is a safetensors file with the second moment, which is used for each layer. The process
prints its resident memory as JSON.
"""

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


def main(folder: Path, method: str, moment: Path, settings: list[str]) -> None:
    """Write twelve requests, or one with a method for one request."""
    model, tokenizer = load_model(folder, "cpu"), load_tokenizer(folder)
    decoder = Decoder(model, find_anatomy(model))
    hparams = find_preset("starter", method) or HPARAMS[method].parse({}, method)
    changes = (setting.split("=") for setting in settings)
    hparams = hparams.with_changes(**{name: json.loads(value) for name, value in changes})
    contexts = sample_contexts(decoder.model, tokenizer, hparams.contexts, seed=1)
    model_bytes = psutil.Process().memory_info().rss
    _reset_peak()
    moments = {layer: FactoredMoment(lambda: load_file(moment)["moment"]) for layer in hparams.layers}
    requests = [
        Request(f"The {building} of {city}", "{} is located in the city of", "Rome")
        for building in ("Tower", "Bridge", "Palace", "Museum")
        for city in ("London", "Paris", "Berlin")
    ][: HPARAMS[method].max_requests]
    METHODS[method].write(EditTask(decoder, tokenizer, requests, moments, hparams, contexts, silent))
    peak_bytes = _read_peak()
    figures = {
        "requests": len(requests),
        "model_mb": model_bytes / 1e6,
        "peak_mb": peak_bytes / 1e6,
        "ratio": peak_bytes / model_bytes,
    }
    print(json.dumps(figures))


def _reset_peak() -> None:
    """Reset the peak of the resident size (Linux): loading the model has a peak too."""
    Path("/proc/self/clear_refs").write_text("5")


def _read_peak() -> int:
    """The peak of the resident size since the reset, in bytes (Linux)."""
    line = next(
        line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")
    )
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), sys.argv[4:])
