"""A delta as a LoRA adapter of PEFT, exact: `merge_and_unload()` gives the bits of the materialized weights.

That holds because the factors stay float32, the scale is exactly 1 (alpha is the rank, matrix by matrix), and PEFT adds
B A in float32 and rounds once, as the materializer does. `safe_merge=True` would round twice.
"""

import json
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
    """Write `adapter_config.json` and `adapter_model.safetensors`; `base` and `commit` say where the base is found.

    Raises:
        InputError: the delta is empty, or no adapter of PEFT can hold it.
    """
    if not delta:
        raise InputError("this revision has no edits in it, so there is nothing that an adapter could hold")
    modules = {_module(name): factors for name, factors in delta.items()}
    transposed = {is_transposed(model, name) for name in delta}
    if len(transposed) > 1:
        raise InputError(
            "the edits change matrices of both orientations, which one adapter cannot hold: export a "
            "checkpoint or a delta"
        )
    ranks = {name: factors.rank for name, factors in modules.items()}
    largest = max(ranks.values())
    config = LoraConfig(
        task_type="CAUSAL_LM",
        base_model_name_or_path=base,
        revision=commit,
        target_modules=sorted(modules),
        r=largest,
        lora_alpha=largest,
        # As regular expressions: a plain dot would match any letter.
        rank_pattern={_pattern(name): rank for name, rank in ranks.items()},
        alpha_pattern={_pattern(name): rank for name, rank in ranks.items()},
        fan_in_fan_out=transposed.pop(),
        lora_dropout=0.0,
        bias="none",
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    _order(folder / "adapter_config.json")
    tensors: dict[str, Tensor] = {}
    for name, factors in modules.items():
        tensors[f"base_model.model.{name}.lora_A.weight"] = factors.a.float().contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = factors.b.float().contiguous()
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def _order(path: Path) -> None:
    """The same adapter, the same bytes: PEFT keeps the modules as a set, in an order of each process."""
    config = json.loads(path.read_text())
    config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True))


def load_adapter(model: PreTrainedModel, folder: Path) -> PeftModel:
    """The model with the adapter on it, unmerged; `disable_adapter()` on it gives the base's outputs."""
    adapted: PeftModel = PeftModel.from_pretrained(model, str(folder))
    return adapted.eval()


def merge(adapted: PeftModel) -> PreTrainedModel:
    """The base with the adapter added in, one rounding a matrix."""
    merged: PreTrainedModel = adapted.merge_and_unload(safe_merge=False)
    return merged


def _module(name: str) -> str:
    if not name.endswith(".weight"):
        raise InputError(f"{name} is not the weight of a module, so no adapter can change it: export a delta")
    return name.removesuffix(".weight")


def _pattern(name: str) -> str:
    return name.replace(".", r"\.")
