"""The habits of the code that a program can check: exact `__all__`, short functions, files of one concept."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = [
    ROOT / "client/clip_search",
    ROOT / "server/clip_search_server",
    ROOT / "export/clip_search_export",
    ROOT / "gallery/clip_search_gallery",
    ROOT / "photos/clip_search_photos",
    ROOT / "evaluation/clip_search_evaluation",
]
PROGRAM_FOLDERS = [ROOT / name for name in ("bench", "demo", "examples", "loadtest", "scripts")]
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500


def _written_modules(folders: list[Path]) -> list[Path]:
    return sorted(
        path for folder in folders for path in folder.rglob("*.py") if not re.search(r"_pb2(_grpc)?\.py$", path.name)
    )


def _name_from_root(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _listed_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                return [str(name) for name in ast.literal_eval(node.value)]
    return None


def _top_level(tree: ast.Module) -> Iterator[ast.stmt]:
    """Give the statements of a module, those for type checkers too: a package may import what it offers when used."""
    for node in tree.body:
        match node:
            case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body):
                yield from body
            case _:
                yield node


def _public_names(tree: ast.Module, *, with_imports: bool) -> set[str]:
    names: set[str] = set()
    for node in _top_level(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(value=ast.Call(func=ast.Name(id="TypeVar" | "ParamSpec"))):
                pass
            case ast.Assign(targets=targets):
                names.update(target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
            case ast.ImportFrom(module=str(module), names=aliases) if with_imports and module.startswith("clip_search"):
                names.update(alias.asname or alias.name for alias in aliases)
            case _:
                pass
    return {name for name in names if not name.startswith("_")}


@pytest.mark.parametrize("path", _written_modules(PACKAGES), ids=_name_from_root)
def test_all_is_exact(path: Path) -> None:
    """Where a module has `__all__`, it lists all public names that the module defines, each once, and none it lacks.

    A package's `__all__` also lists every name it imports from the project; another module's may.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    listed = _listed_names(tree)
    is_package = path.name == "__init__.py"
    defined, with_imports = (_public_names(tree, with_imports=flag) for flag in (False, True))
    if listed is None:
        assert not (is_package and with_imports), "this package offers names and has no __all__"
        return
    names = {name for name in listed if not name.startswith("__")}
    assert len(listed) == len(set(listed))
    assert (with_imports if is_package else defined) <= names
    assert names <= with_imports


@pytest.mark.parametrize("path", _written_modules([*PACKAGES, *PROGRAM_FOLDERS]), ids=_name_from_root)
def test_files_and_functions_are_short(path: Path) -> None:
    """No file is longer than 500 lines, and no function longer than 70."""
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= FILE_LINES_MAX
    long_functions = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= FUNCTION_LINES_MAX
    ]
    assert not long_functions


@pytest.mark.parametrize("path", _written_modules([*PACKAGES, *PROGRAM_FOLDERS]), ids=_name_from_root)
def test_modules_say_what_they_do(path: Path) -> None:
    """Every module begins with a docstring."""
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
