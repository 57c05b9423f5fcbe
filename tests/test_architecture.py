"""Who may import whom (see the design), what the terminal never loads, and what is nowhere in the tree."""

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("engine", "hparams", "migrations", "store", "tui")
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "huggingface_hub")
FILES = sorted(path.relative_to(ROOT) for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def room_of(module: str) -> str:
    """`retcon.engine.jobs.control` lies in `jobs`; the science is `engine`; else the folder."""
    parts = module.split(".")
    if parts[1:3] == ["engine", "jobs"]:
        return "jobs"
    return parts[1] if len(parts) > 1 and parts[1] in ROOMS else "retcon"


def module_of(path: Path) -> str:
    return ".".join(("retcon", *path.with_suffix("").parts)).removesuffix(".__init__")


@cache
def modules() -> frozenset[str]:
    return frozenset(module_of(path) for path in FILES) | {"retcon", "retcon.errors", "retcon.prompts"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, int, bool]]:
    """(absolute module, line, whether it was written as a relative import) of all imports, or of those at the top."""
    tree = tree_of(path)
    package = module_of(path) if path.name == "__init__.py" else module_of(path).rpartition(".")[0]
    for node in outside_functions(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno, False
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.rsplit(".", node.level - 1)[0] if node.level > 1 else package
                base = f"{parent}.{base}" if base else parent
            for alias in node.names:
                whole = f"{base}.{alias.name}"
                yield whole if whole in modules() else base, node.lineno, bool(node.level)


def outside_functions(tree: ast.Module) -> Iterator[ast.AST]:
    """What runs when the module is imported: not the bodies of functions, nor what only a type checker reads."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        yield node
        only_types = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not only_types:
            waiting += ast.iter_child_nodes(node)


MAY_IMPORT = {
    "tui": {"tui", "store", "jobs", "retcon"},
    "jobs": {"jobs", "store", "engine", "retcon"},
    "engine": {"engine", "retcon"},
    "store": {"store", "migrations", "retcon"},
    "migrations": {"migrations", "store", "retcon"},
    "hparams": set(),
}
# Modules of the science that import no torch. Jobs outside `runs/` and the terminal may import them.
TORCH_FREE = {
    "retcon.engine.errors",
    "retcon.engine.progress",
    "retcon.engine.edits",
    "retcon.engine.edits.hparams",
    "retcon.engine.edits.hparams.base",
    "retcon.engine.edits.hparams.files",
    "retcon.engine.evaluation.intervals",
    "retcon.engine.evaluation.metrics",
    "retcon.engine.model.limits",
    "retcon.engine.model.roles",
    "retcon.engine.tracing.rules",
}
NOT_AT_ALL = {"store": {"torch", "transformers"}, "tui": {"torch", "transformers"}, "migrations": set(HEAVY)}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_rooms(path: Path) -> None:
    room = room_of(module_of(path))
    for name, line, relative in imports(path):
        where = f"{path}:{line} imports {name}"
        if name.partition(".")[0] == "retcon":
            assert room_of(name) in MAY_IMPORT[room] or (room == "tui" and name in TORCH_FREE), where
            # Alembic runs env.py as a script, which has no package to be relative to.
            assert relative or path == Path("migrations/env.py"), (
                f"{where}: imports between rooms are relative"
            )
        assert name.partition(".")[0] not in NOT_AT_ALL.get(room, set()), where
    # Jobs bind the science and the catalog; only what runs in the worker may load the science with itself.
    if room == "jobs" and "runs" not in path.parts:
        torch_free = {"retcon.engine", *TORCH_FREE}
        for name, line, _ in imports(path, top_level=True):
            where = f"{path}:{line} imports {name}"
            assert room_of(name) != "engine" or name in torch_free or not name.startswith("retcon"), where
            assert name.partition(".")[0] not in HEAVY, where
    if room in ("store", "tui"):
        for name, line, _ in imports(path, top_level=True):
            assert name.partition(".")[0] not in HEAVY or path == Path("tui/presentation/figures.py"), (
                f"{path}:{line}: {name}"
            )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_no_pickle_and_no_shell(path: Path) -> None:
    tree = tree_of(path)
    for name, line, _ in imports(path):
        assert name.partition(".")[0] not in (
            "pickle",
            "marshal",
            "shelve",
            "joblib",
            "dill",
            "cloudpickle",
        ), line
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in ("torch.load", "torch.save", "eval", "exec", "os.system", "os.popen"), (
                node.lineno
            )
            for keyword in node.keywords:
                value = ast.unparse(keyword.value)
                assert (keyword.arg, value) not in (("shell", "True"), ("allow_pickle", "True")), node.lineno


def test_every_package_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {module_of(path) for path in FILES if path.name == "__init__.py"} | {"retcon"}
    assert set(settings["packages"]) == found
    # Each folder with code is a package; what is not code is named as data of one.
    assert {path.parent for path in FILES} == {path.parent for path in FILES if path.name == "__init__.py"}
    for room in ROOMS:
        for file in (ROOT / room).rglob("*"):
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                package = module_of(file.parent.relative_to(ROOT) / "__init__.py")
                patterns = settings["package-data"].get(package, [])
                assert any(file.match(pattern) for pattern in patterns), f"{file} is not installed"


def loaded(program: str, tmp_path: Path) -> set[str]:
    """The top-level modules that a program has loaded when it ends."""
    ends = "import atexit, sys; atexit.register(lambda: print('\\n'.join(sys.modules), file=open(sys.argv[-1], 'w')))"
    listing = tmp_path / "modules"
    done = subprocess.run(
        [sys.executable, "-c", f"{ends}\n{program}", str(listing)],
        env={"PATH": "/usr/bin:/bin", "RETCON_HOME": str(tmp_path / "home"), "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {name.partition(".")[0] for name in listing.read_text().split()}


CLI = "import sys; from retcon.tui.cli.main import cli; cli({!r}, standalone_mode=False)"


@pytest.mark.parametrize(
    "program",
    [
        CLI.format(["--help"]),
        CLI.format(["model", "list"]),
        CLI.format(["job", "list", "--json"]),
        CLI.format(["doctor"]),
        "import retcon.tui.app.app",
        "import retcon.engine.jobs",
        "import retcon.engine.jobs.worker.__main__",
        "import retcon.store.catalog.catalog, retcon.store.history.history, retcon.store.maintenance.verify",
        "import importlib; from retcon.tui.command_table import COMMANDS; "
        "[importlib.import_module('retcon.tui.cli.commands.' + one.module) for one in COMMANDS.values()]",
    ],
    ids=["help", "model list", "job list", "doctor", "app", "jobs", "worker", "store", "every command"],
)
def test_the_terminal_loads_nothing_heavy(program: str, tmp_path: Path) -> None:
    assert not loaded(program, tmp_path) & set(HEAVY)


def test_this_would_be_seen(tmp_path: Path) -> None:
    assert {"retcon", "numpy"} <= loaded("import retcon.store.effects", tmp_path)


def test_help_does_not_open_the_catalog(tmp_path: Path) -> None:
    assert not loaded(CLI.format(["--help"]), tmp_path) & {"sqlmodel", "sqlalchemy", "textual"}
    assert not (tmp_path / "home").exists()
