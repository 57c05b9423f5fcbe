"""Models load only from intact safetensors inside their folder. A fingerprint identifies their weights."""

import json
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import MixtralConfig

from retcon.engine.errors import InputError, UnsupportedModel
from retcon.engine.model.decoder import Decoder
from retcon.engine.model.loading import (
    check_folder,
    check_gguf,
    detect_source_kind,
    fetch,
    fingerprint,
    hash_parameters,
    hash_tensor,
    load_model,
    load_tokenizer,
)
from retcon.tests.helpers.families import tiny_model
from retcon.tests.helpers.tiny_tokenizers import word_tokenizer
from retcon.tests.helpers.untouched import assert_same_bits, bits_of

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model folder."""
    path = tmp_path / "tiny"
    tiny_model("llama").save_pretrained(path)
    word_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    path = tmp_path / "sharded"
    tiny_model("llama").save_pretrained(path, max_shard_size="60KB")
    assert len(list(path.glob("model-*.safetensors"))) > 1
    return path


def assert_refused(folder: Path, match: str) -> None:
    """`check_folder`, `fetch` and `load_model` refuse the folder."""
    for attempt in (check_folder, lambda path: fetch(str(path), path), lambda path: load_model(path, "cpu")):
        with pytest.raises(InputError, match=match):
            attempt(folder)


def test_folder_is_fetched_and_loaded(folder: Path) -> None:
    files = fetch(str(folder), folder.parent / "unused")
    assert (files.folder, files.source_kind, files.commit) == (folder, "folder", None)
    model = load_model(files.folder, "cpu")
    assert not model.training
    assert_same_bits(model, bits_of(tiny_model("llama")))
    tokenizer = load_tokenizer(files.folder)
    assert tokenizer("Paris is")["input_ids"] == word_tokenizer()("Paris is")["input_ids"]
    assert tokenizer.padding_side == "right"
    assert not (folder.parent / "unused").exists()


def test_shards_are_fetched_and_loaded(sharded: Path) -> None:
    assert_same_bits(load_model(fetch(str(sharded), sharded).folder, "cpu"), bits_of(tiny_model("llama")))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_model_keeps_its_dtype(
    dtype: torch.dtype, tmp_path: Path, own_decoder_of: Callable[..., Decoder]
) -> None:
    own_decoder_of("qwen2", dtype).model.save_pretrained(tmp_path)
    assert {p.dtype for p in load_model(tmp_path, "cpu").parameters()} == {dtype}
    assert {p.dtype for p in load_model(tmp_path, "cpu", torch.float32).parameters()} == {torch.float32}


def test_folder_without_config_is_refused(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert_refused(folder, r"no config\.json")


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    assert_refused(folder, "does not load pickled weights")


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_truncated_weights_are_refused(folder: Path, keep: int) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:keep])
    assert_refused(folder, "damaged|cut short")


def test_weights_with_trailing_bytes_are_refused(folder: Path) -> None:
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"x")
    assert_refused(folder, "damaged")


@pytest.mark.parametrize(
    "header",
    [
        b"no json at all",
        b"[1, 2]",
        b'{"w": 1}',
        b'{"w": {}}',
        b'{"w": {"data_offsets": 5}}',
        b'{"w": {"data_offsets": ["0", "4"]}}',
        b'{"w": {"data_offsets": [0]}}',
        b"\xff\xfe\xff",
    ],
)
def test_corrupt_header_is_refused(folder: Path, header: bytes) -> None:
    (folder / WEIGHTS).write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 4)
    assert_refused(folder, "header|damaged")


@pytest.mark.parametrize(
    "name",
    [
        "../other/model.safetensors",
        "/etc/model.safetensors",
        "sub/model.safetensors",
        "..",
        "",
        "weights.bin",
        5,
        None,
    ],
)
def test_index_with_invalid_shard_name_is_refused(sharded: Path, name: object) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = {"model.norm.weight": name}
    (sharded / INDEX).write_text(json.dumps(index))
    assert_refused(sharded, "refused|not a safetensors index")


def test_index_into_another_folder_is_refused(sharded: Path, folder: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    index["weight_map"] = dict.fromkeys(index["weight_map"], f"../{folder.name}/{WEIGHTS}")
    (sharded / INDEX).write_text(json.dumps(index))
    assert (sharded / f"../{folder.name}/{WEIGHTS}").is_file()
    assert_refused(sharded, "not a file of that folder; refused")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": {"a": ["b"]}}'])
def test_corrupt_index_is_refused(sharded: Path, content: str) -> None:
    (sharded / INDEX).write_text(content)
    assert_refused(sharded, "not a safetensors index")


def test_shard_with_too_long_name_is_refused(sharded: Path) -> None:
    index = json.loads((sharded / INDEX).read_text())
    name = "a" * 300 + ".safetensors"
    (sharded / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(index["weight_map"], name)}))
    assert_refused(sharded, f"{name}, which is missing")


def test_missing_shard_is_refused(sharded: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[1]
    shard.unlink()
    assert_refused(sharded, f"{shard.name}, which is missing")


def test_shard_linked_out_of_folder_is_refused(sharded: Path, tmp_path: Path) -> None:
    shard = sorted(sharded.glob("model-*.safetensors"))[0]
    elsewhere = tmp_path / "elsewhere.safetensors"
    shard.rename(elsewhere)
    shard.symlink_to(elsewhere)
    assert_refused(sharded, "links to a file outside its folder")


def test_links_into_hub_blobs_are_followed(sharded: Path, tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "repo" / "snapshots" / "c0ffee", tmp_path / "repo" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sharded.iterdir()):
        path.rename(blobs / str(number))
        (snapshot / path.name).symlink_to(blobs / str(number))
    assert_same_bits(load_model(snapshot, "cpu"), bits_of(tiny_model("llama")))


def test_unknown_architecture_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "no-such-model"}')
    with pytest.raises(InputError, match=r"config\.json"):
        fetch(str(folder), folder)


def test_invalid_config_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(InputError, match=r"config\.json"):
        fetch(str(folder), folder)


def test_experts_are_refused_by_config(folder: Path) -> None:
    MixtralConfig(hidden_size=32, num_local_experts=4, architectures=["MixtralForCausalLM"]).save_pretrained(
        folder
    )
    with pytest.raises(UnsupportedModel, match="MixtralForCausalLM routes"):
        fetch(str(folder), folder)


def test_folder_without_tokenizer_is_refused(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(folder)


def test_weights_of_other_shape_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"hidden_size": 64}))
    with pytest.raises(InputError, match="cannot load"):
        load_model(folder, "cpu")


# GGUF


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A valid GGUF file with two tensors."""
    path = tmp_path / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_tensor("token_embd.weight", np.ones((96, 32), dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_intact_gguf_passes(gguf_file: Path) -> None:
    check_gguf(gguf_file)


@pytest.mark.parametrize("content", [b"", b"GG", b"no gguf at all, but long enough for a header"])
def test_file_without_magic_number_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "false.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not a GGUF file"):
        fetch(str(path), tmp_path / "into")


@pytest.mark.parametrize("part", [0.001, 0.02, 0.5, 0.99])
def test_truncated_gguf_is_refused(part: float, gguf_file: Path, tmp_path: Path) -> None:
    whole = gguf_file.read_bytes()
    gguf_file.write_bytes(whole[: max(5, int(len(whole) * part))])
    with pytest.raises(InputError, match="damaged or cut short"):
        fetch(str(gguf_file), tmp_path / "into")
    assert not (tmp_path / "into").exists()


def test_gguf_without_full_model_is_refused(gguf_file: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot read .*tiny\.gguf"):
        fetch(str(gguf_file), tmp_path / "into")
    assert not (tmp_path / "into").exists()


# Sources


def test_detects_source_kinds(folder: Path, gguf_file: Path) -> None:
    assert detect_source_kind("starter") == "starter"
    assert detect_source_kind(str(folder)) == "folder"
    assert detect_source_kind(str(gguf_file)) == "gguf"
    assert detect_source_kind("gpt2") == "hub"
    assert detect_source_kind("microsoft/phi-1_5") == "hub"


@pytest.mark.parametrize(
    "source", ["./nowhere", "/no/such/folder", "a/b/c", "../x", "~/no-such-model", "", "two words"]
)
def test_invalid_source_is_refused(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # beside the checkout there may be anything
    with pytest.raises(InputError, match="neither an existing folder nor a hub id"):
        detect_source_kind(source)


def test_missing_gguf_is_refused() -> None:
    with pytest.raises(InputError, match="does not exist"):
        detect_source_kind("nowhere.gguf")


def test_file_source_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="is a file"):
        detect_source_kind(str(folder / WEIGHTS))


# Fingerprints


def test_fingerprint_is_equal_after_save_and_load(folder: Path) -> None:
    digests = hash_parameters(tiny_model("llama"))
    assert hash_parameters(load_model(folder, "cpu")) == digests
    assert fingerprint(dict(reversed(digests.items()))) == fingerprint(digests)


def test_changed_weight_changes_fingerprint(own_decoder_of: Callable[..., Decoder]) -> None:
    model = own_decoder_of("llama").model
    before = hash_parameters(model)
    with torch.no_grad():
        model.model.layers[3].mlp.down_proj.weight[5, 7] += 1e-6
    after = hash_parameters(model)
    assert [name for name in after if after[name] != before[name]] == ["model.layers.3.mlp.down_proj.weight"]
    assert fingerprint(after) != fingerprint(before)


def test_swapped_names_change_fingerprint() -> None:
    assert fingerprint({"a": "1", "b": "2"}) != fingerprint({"a": "2", "b": "1"})


def test_hash_covers_row_major_values_and_dtype() -> None:
    tensor = torch.arange(6, dtype=torch.float32).view(2, 3)
    assert hash_tensor(tensor.T.contiguous().T) == hash_tensor(tensor)
    assert hash_tensor(tensor.T) != hash_tensor(tensor)
    assert hash_tensor(tensor.bfloat16()) != hash_tensor(tensor)
    assert hash_tensor(tensor.bfloat16()) == hash_tensor(tensor.bfloat16().clone())


def test_tied_weights_are_hashed_once() -> None:
    names = list(hash_parameters(tiny_model("gpt2")))
    assert "transformer.wte.weight" in names
    assert "lm_head.weight" not in names


def test_safetensors_with_metadata_passes(folder: Path) -> None:
    tensors = {name: p.detach().clone() for name, p in tiny_model("llama").named_parameters()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt", "made_by": "test"})
    check_folder(folder)
