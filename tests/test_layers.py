"""The house has floors: every module imports only what stands below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import attrs
import pytest

import aiofiles_api

PACKAGE = "aiofiles_api"
ROOT = Path(aiofiles_api.__file__).parent

BASEMENT = ["errors", "progress", "threads", "buffers", "stalls"]
VALUES = ["decoding", "models", "retry", "pacing", "config", "multipart", "resume"]
PURE = [*BASEMENT, *VALUES, "protocol", "chunked", "intake", "sendfile", "sources"]
BELOW_UPLOAD = [*PURE, "session", "listing", "partfile", "download", "reconcile", "processing"]
CORE = [*BELOW_UPLOAD, "upload", "client"]

# A room is a module, or a package with all that is in it. Each stands above those that it may
# import; `.` is the package itself, which is the public API.
ROOMS: dict[str, list[str]] = {
    "errors": [],
    "progress": [],
    "threads": ["errors"],
    "buffers": [],
    "stalls": [],
    "decoding": ["errors"],
    "models": ["errors"],
    "retry": ["errors"],
    "pacing": ["errors"],
    "config": ["errors", "retry", "pacing"],
    "multipart": ["errors"],
    "resume": ["errors"],
    "protocol": ["errors", "decoding", "models"],
    "chunked": [],
    "intake": ["buffers"],
    "sendfile": ["errors", "threads", "stalls"],
    "sources": ["errors", "threads", "sendfile"],
    "session": PURE,
    "listing": [*PURE, "session"],
    "partfile": ["errors", "threads"],
    "download": [*PURE, "session", "listing", "partfile"],
    "reconcile": [*PURE, "session", "listing", "partfile", "download"],
    "processing": [*PURE, "session", "listing"],
    "upload": BELOW_UPLOAD,
    "client": [*BELOW_UPLOAD, "upload"],
    "bulk": [*PURE, "session"],
    "digests": [],
    "naming": ["errors", "threads", "partfile", "digests"],
    "journal": ["errors", "threads", "models", "digests"],
    "identity": ["errors", "threads", "models"],
    "recovery": [*CORE, "bulk", "journal", "identity"],
    "trades": [*CORE, "bulk", "naming", "journal", "identity", "recovery"],
    "transfers": [*CORE, "bulk", "journal", "trades"],
    ".": [
        *CORE,
        "bulk",
        "digests",
        "naming",
        "journal",
        "identity",
        "recovery",
        "trades",
        "transfers",
    ],
    "emulator": [],
    "cli": [".", "emulator"],
    "fastapi": ["."],
    "fsspec": ["."],
    "pytest_plugin": [".", "emulator"],
    "__main__": ["cli"],
}

LIBRARIES: dict[str, set[str]] = {
    "decoding": {"attrs", "orjson"},
    "protocol": {"attrs"},
    "session": {"aiohttp", "attrs", "anyio"},
    "emulator": {"aiohttp", "attrs", "anyio"},
    "cli": {"anyio", "attrs", "cyclopts", "rich", "uvloop"},
    "fastapi": {"attrs", "anyio", "fastapi", "starlette"},
    "fsspec": {"attrs", "anyio", "fsspec"},
    "pytest_plugin": {"anyio", "pytest"},
}
"""What else than Python's own library a room may import."""

CORE_LIBRARIES = {"attrs", "cattrs", "anyio"}

INSIDE_FUNCTIONS = {
    "__main__ imports cli": "whose libraries may not be there",
    "cli.screen imports cli.terminal": "which takes time to import, and only a terminal needs it",
    "cli.serve imports emulator": "which takes time to import, and only this command needs it",
}
"""Imports of ours that run late, and why. None of them hides a cycle."""


@attrs.frozen
class Import:
    importer: str
    imported: str
    is_late: bool

    def __str__(self) -> str:
        return f"{self.importer} imports {self.imported}"


def modules() -> dict[str, Path]:
    """Return every module by its name within the package; `.` is the package itself."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found[name or "."] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    return module if module == "." else module.partition(".")[0]


@cache
def imports(module: str) -> list[Import]:
    """Return what a module imports."""
    return list(read_imports(module))


def read_imports(module: str) -> Iterator[Import]:
    """Yield them: ours by the name within the package, others by their own."""
    for node, is_late in walk(ast.parse(MODULES[module].read_text()), is_late=False):
        if isinstance(node, ast.Import):
            assert not any(alias.name.startswith(PACKAGE) for alias in node.names)
            for alias in node.names:
                yield Import(module, alias.name.split(".")[0], is_late)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            source = node.module or ""
            if source != PACKAGE and not source.startswith(f"{PACKAGE}."):
                yield Import(module, source.split(".")[0], is_late)
                continue
            package = source.removeprefix(PACKAGE).removeprefix(".")
            for alias in node.names:
                submodule = f"{package}.{alias.name}".removeprefix(".")
                yield Import(module, submodule if submodule in MODULES else package or ".", is_late)


def walk(node: ast.AST, *, is_late: bool) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node but those that only type checkers see, and whether a function runs it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child, is_late
        late = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, is_late=is_late or late)


def test_the_table_is_ordered_from_the_ground_up() -> None:
    seen: set[str] = set()
    for name, below in ROOMS.items():
        assert set(below) <= seen, f"{name} may import what stands above it"
        seen.add(name)


def test_every_module_has_its_place() -> None:
    unknown = {room(module) for module in MODULES} - set(ROOMS)
    assert not unknown, f"put {unknown} into the table, or into another room"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_stands_below_it(module: str) -> None:
    allowed = {room(module), *ROOMS[room(module)]}
    for found in imports(module):
        if found.imported in MODULES:
            assert room(found.imported) in allowed, str(found)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_the_libraries_of_its_room(module: str) -> None:
    allowed = LIBRARIES.get(room(module), CORE_LIBRARIES)
    for found in imports(module):
        if found.imported not in MODULES:
            assert found.imported in sys.stdlib_module_names | allowed, str(found)


def test_there_is_no_cycle() -> None:
    graph = {
        module: {found.imported for found in imports(module) if found.imported in MODULES}
        for module in MODULES
    }
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_imports_of_ours_stand_at_the_top_but_for_those_that_are_documented() -> None:
    late = {
        str(found)
        for module in MODULES
        for found in imports(module)
        if found.is_late and found.imported in MODULES
    }
    assert late <= set(INSIDE_FUNCTIONS)


def test_no_module_is_a_drawer_for_everything() -> None:
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & {"utils", "util", "helpers", "common", "misc", "types", "constants"}


def in_new_interpreter(program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_each_module_can_be_imported_alone() -> None:
    """Import each in a process of its own, the core's without the package's own imports."""
    alone = [name for name in MODULES if room(name) in CORE or room(name) == "emulator"]
    others = [name for name in MODULES if name not in alone and name != "."]
    program = f"""
import importlib, os, sys, types
import aiohttp.web, anyio, attrs, cattrs, cyclopts, rich  # once for all

children = {{}}

def start(names):
    for name in names:
        child = os.fork()
        if not child:
            importlib.import_module(f"{PACKAGE}.{{name}}")
            os._exit(0)
        children[child] = name

bare = types.ModuleType({PACKAGE!r})
bare.__path__ = [{str(ROOT)!r}]
sys.modules[{PACKAGE!r}] = bare
start({alone!r})
del sys.modules[{PACKAGE!r}]
import {PACKAGE}
start({others!r})
print(*(name for child, name in children.items() if os.waitpid(child, 0)[1]))
"""
    assert in_new_interpreter(program).split() == []


def test_the_public_api_needs_no_library_of_an_extra() -> None:
    program = f"""
import sys
for name in ("cyclopts", "rich", "fastapi", "starlette", "fsspec", "uvloop", "orjson", "pytest"):
    sys.modules[name] = None
import {PACKAGE}
print(*sorted(name for name in sys.modules if name.startswith("{PACKAGE}.")))
"""
    loaded = {name.removeprefix(f"{PACKAGE}.") for name in in_new_interpreter(program).split()}
    assert {room(name) for name in loaded} <= set(ROOMS["."])
