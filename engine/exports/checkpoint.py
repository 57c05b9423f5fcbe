"""Export a checkpoint for transformers: shards, config, generation config, tokenizer, chat template."""

import shutil
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

_GENERATION_CONFIG = "generation_config.json"
# Files that a license may require to be distributed with the weights.
_LICENSE_FILES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")


def write_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, base: Path, folder: Path, shard_size: int
) -> None:
    """Write the model's current weights to `folder`, in shards of at most `shard_size` bytes.

    A tensor larger than that has its own shard.

    The generation config is a copy of the base's file. transformers reads some configs that it refuses to write, for
    example Llama 2's temperature without sampling.
    """
    own, model.generation_config = model.generation_config, GenerationConfig.from_model_config(model.config)
    try:
        model.save_pretrained(folder, max_shard_size=shard_size)
    finally:
        model.generation_config = own
    tokenizer.save_pretrained(folder)
    for pattern in (_GENERATION_CONFIG, *_LICENSE_FILES):
        for path in base.glob(pattern):
            shutil.copyfile(path, folder / path.name)


def write_matrices(matrices: dict[str, Tensor], path: Path) -> None:
    """Write named matrices as one safetensors file."""
    save_file({name: matrix.contiguous() for name, matrix in matrices.items()}, path)
