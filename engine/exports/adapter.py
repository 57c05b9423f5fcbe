"""Export a delta as a LoRA adapter of PEFT. `merge_and_unload()` gives exactly the bits of the materialized weights.

The factors stay float32, and the scale is exactly 1 (alpha equals the rank, for each matrix). PEFT adds B A in float32
and rounds once, as the materializer does. `safe_merge=True` would round twice.
"""

import json
import re
from pathlib import Path

from peft import LoraConfig, PeftModel
from safetensors.torch import save_file
from torch import Tensor
from transformers import PreTrainedModel

from ..errors import InputError
from ..model.delta import Delta, is_transposed

WEIGHTS = "adapter_model.safetensors"


def write_adapter(
    delta: Delta, model: PreTrainedModel, folder: Path, base: str, commit: str | None = None
) -> None:
    """Write `adapter_config.json` and `adapter_model.safetensors`.

    `base` and `commit` are the base's hub id and commit.

    Raises:
        InputError: the delta is empty, or a PEFT adapter cannot represent it.
    """
    if not delta:
        raise InputError("This revision has no edits. Export a revision with edits.")
    modules = {_module_name(name): factors for name, factors in delta.items()}
    transposed = {is_transposed(model, name) for name in delta}
    if len(transposed) > 1:
        raise InputError(
            "The edits change matrices of both orientations, and an adapter supports only one. Export a checkpoint or "
            "a delta."
        )
    # PEFT reads the names as regular expressions, in which a plain dot matches any character.
    ranks = {re.escape(name): factors.rank for name, factors in modules.items()}
    largest = max(ranks.values())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=commit,
        target_modules=sorted(modules),
        r=largest,
        lora_alpha=largest,
        rank_pattern=ranks,
        alpha_pattern=ranks,
        fan_in_fan_out=transposed.pop(),
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    _sort_modules(folder / "adapter_config.json")
    tensors: dict[str, Tensor] = {}
    for name, factors in modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = factors.a.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = factors.b.float().contiguous()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def _sort_modules(path: Path) -> None:
    """Sort the modules, so that equal adapters have equal bytes. PEFT writes a set, in a random order per process."""
    config = json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with the adapter, unmerged. Its `disable_adapter()` gives the base's outputs."""
    adapted: PeftModel = PeftModel.from_pretrained(model, str(folder))
    return adapted.eval()


def merge(adapted: PeftModel) -> PreTrainedModel:
    """The base with the adapter merged, with one rounding per matrix."""
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=False)
    return merged


def _module_name(name: str) -> str:
    if not name.endswith(".weight"):
        raise InputError(
            f"{name} is not the weight of a module, so an adapter cannot change it. Export a delta."
        )
    return name.removesuffix(".weight")
