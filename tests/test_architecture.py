"""Which folders may import which (see ARCHITECTURE.md), what the terminal never imports, and sizes of code."""

import ast
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PARTS = ("engine", "hparams", "migrations", "store", "tui")
HEAVY = ("torch", "transformers", "datasets", "matplotlib", "huggingface_hub")
FILES = sorted(path.relative_to(ROOT) for part in PARTS for path in (ROOT / part).rglob("*.py"))


def part_of(module: str) -> str:
    """The part of the program that a module belongs to: `jobs` for engine/jobs, else the top folder."""
    parts = module.split(".")
    if parts[1:3] == ["engine", "jobs"]:
        return "jobs"
    return parts[1] if len(parts) > 1 and parts[1] in PARTS else "retcon"


def module_of(path: Path) -> str:
    return ".".join(("retcon", *path.with_suffix("").parts)).removesuffix(".__init__")


@cache
def modules() -> frozenset[str]:
    return frozenset(module_of(path) for path in FILES) | {
        "retcon",
        "retcon.errors",
        "retcon.passage_facts",
        "retcon.prompts",
    }


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((ROOT / path).read_text(encoding="utf-8"))


def imports(path: Path, *, top_level: bool = False) -> Iterator[tuple[str, int, bool]]:
    """(absolute module, line, whether the import is relative) of all imports, or of those outside functions."""
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
    """The nodes that run on import: without bodies of functions and blocks for type checkers."""
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
    "store": {"store", "retcon"},
    "migrations": {"migrations", "store", "retcon"},
    "hparams": set(),
}
# Modules of the engine that do not import torch. Jobs outside `runs/` and the terminal may import them.
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
NEVER_IMPORTED = {
    "store": {"torch", "transformers"},
    "tui": {"torch", "transformers"},
    "migrations": set(HEAVY),
}


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_follow_the_rules_of_the_parts(path: Path) -> None:
    part = part_of(module_of(path))
    for name, line, relative in imports(path):
        where = f"{path}:{line} imports {name}"
        if name.partition(".")[0] == "retcon":
            assert part_of(name) in MAY_IMPORT[part] or (part == "tui" and name in TORCH_FREE), where
            # Alembic runs env.py as a script, so it cannot use relative imports.
            assert relative or path == Path("migrations/env.py"), (
                f"{where}: imports between parts are relative"
            )
        assert name.partition(".")[0] not in NEVER_IMPORTED.get(part, set()), where
    # Only modules that run in the worker may import the engine at the top level.
    if part == "jobs" and "runs" not in path.parts:
        torch_free = {"retcon.engine", *TORCH_FREE}
        for name, line, _ in imports(path, top_level=True):
            where = f"{path}:{line} imports {name}"
            assert part_of(name) != "engine" or name in torch_free or not name.startswith("retcon"), where
            assert name.partition(".")[0] not in HEAVY, where
    if part in ("store", "tui"):
        for name, line, _ in imports(path, top_level=True):
            assert name.partition(".")[0] not in HEAVY or path == Path("tui/presentation/figures.py"), (
                f"{path}:{line}: {name}"
            )


@pytest.mark.parametrize("path", FILES, ids=str)
def test_pickle_and_shell_are_not_used(path: Path) -> None:
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


def test_every_package_and_data_file_is_installed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = {module_of(path) for path in FILES if path.name == "__init__.py"} | {"retcon"}
    assert set(settings["packages"]) == found
    # Each folder with code is a package. Other files are listed as package data.
    assert {path.parent for path in FILES} == {path.parent for path in FILES if path.name == "__init__.py"}
    for part in PARTS:
        for file in (ROOT / part).rglob("*"):
            if file.is_file() and file.suffix not in (".py", ".pyc"):
                package = module_of(file.parent.relative_to(ROOT) / "__init__.py")
                patterns = settings["package-data"].get(package, [])
                assert any(file.match(pattern) for pattern in patterns), f"{file} is not installed"


def loaded_modules(program: str, tmp_path: Path) -> set[str]:
    """The top-level modules that a program has imported when it ends."""
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
def test_terminal_imports_nothing_heavy(program: str, tmp_path: Path) -> None:
    assert not loaded_modules(program, tmp_path) & set(HEAVY)


def test_imports_of_a_program_are_detected(tmp_path: Path) -> None:
    assert {"retcon", "numpy"} <= loaded_modules("import retcon.store.effects", tmp_path)


def test_help_does_not_open_the_catalog(tmp_path: Path) -> None:
    assert not loaded_modules(CLI.format(["--help"]), tmp_path) & {"sqlmodel", "sqlalchemy", "textual"}
    assert not (tmp_path / "home").exists()


def folder_of(module: str) -> Path:
    """The folder of a module of retcon; a package is the folder itself."""
    path = Path(*module.split(".")[1:])
    return path if (ROOT / path).is_dir() else path.parent


def test_folders_have_no_import_circles() -> None:
    """Imports in functions count. Only imports of a parent folder are ignored."""
    graph: dict[Path, set[Path]] = {}
    for path in FILES:
        folder = path.parent
        targets = {folder_of(name) for name, _, _ in imports(path) if name.startswith("retcon.")}
        graph.setdefault(folder, set()).update(targets - {folder, *folder.parents})
    # Remove folders that import no remaining folder, until only circles are left.
    while leaves := [folder for folder in graph if not graph[folder] & graph.keys()]:
        for folder in leaves:
            del graph[folder]
    assert not graph, {
        str(folder): sorted(map(str, others & graph.keys())) for folder, others in graph.items()
    }


MAX_MODULES, MAX_FILE_LINES, MAX_FUNCTION_LINES, MAX_PARAMETERS = 18, 400, 60, 8
# A migration is one list of tables, and is not changed after its release.
MIGRATIONS = Path("migrations/versions")
LONG_FILES: set[str] = {"tests/helpers/hub_http.py"}
LONG_SIGNATURES: set[str] = set()


def test_folders_have_few_modules() -> None:
    counts = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > MAX_MODULES} == {}


def test_files_are_short() -> None:
    others = [
        path.relative_to(ROOT) for folder in ("tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")
    ]
    lines = {path: len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path in [*FILES, *others]}
    long = {
        str(path) for path, count in lines.items() if count > MAX_FILE_LINES and path.parent != MIGRATIONS
    }
    assert long <= LONG_FILES


def functions() -> Iterator[tuple[Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and path.parent != MIGRATIONS:
                yield path, node


def test_functions_are_short() -> None:
    lengths = {f"{path}: {node.name}": (node.end_lineno or 0) - node.lineno + 1 for path, node in functions()}
    assert {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_signatures_are_short() -> None:
    """Click commands are exempt: their parameters are the options of the command line."""
    long = set()
    for path, node in functions():
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        names = [argument.arg for argument in arguments if argument.arg not in ("self", "cls")]
        is_command = path.is_relative_to("tui/cli/commands") and node.decorator_list
        if len(names) > MAX_PARAMETERS and not is_command:
            long.add(f"{path}: {node.name}")
    assert long <= LONG_SIGNATURES
