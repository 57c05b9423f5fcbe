"""A checkpoint as transformers loads it: shards, config, generation config, tokenizer, chat template."""

import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_GENERATION = "generation_config.json"
# What a license may ask to be passed on with the weights.
_NOTICES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def write_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: Path, folder: Path, shard_size: int
) -> None:
    """Write the model as it is now to `folder`, in shards of at most `shard_size` bytes where a tensor allows.

    The generation config is the base's own file: transformers refuses to write some that it reads (a temperature
    without sampling, as Llama 2 has it).
    """
    own, model.generation_config = model.generation_config, GenerationConfig.from_model_config(model.config)
    try:
        model.save_pretrained(folder, max_shard_size=shard_size)
    finally:
        model.generation_config = own
    tokenizer.save_pretrained(folder)
    for pattern in (_GENERATION, *_NOTICES):
        for path in base.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def write_matrices(matrices: dict[str, Tensor], path: Path) -> None:
    """Named matrices as one safetensors file."""
    save_file({name: matrix.contiguous() for name, matrix in matrices.items()}, path)
