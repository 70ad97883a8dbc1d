"""Which files of the package a stage imports, found by reading the code, and whether its dependencies cover them."""

import ast
import functools
from collections.abc import Iterable, Sequence
from pathlib import Path

PACKAGE = Path("src/netpress")
#: Folders of the package from which no result follows: they carry values, which DVC tracks as params, and make none.
EXEMPT = ("process", "params")


def local_imports(scripts: Iterable[Path], source: Path) -> set[Path]:
    """Return every file below the folder `source` that one of `scripts` imports, directly or not, also in functions.

    Raises:
        SyntaxError: a file is not Python.
    """
    modules: set[str] = set()
    found: set[Path] = set()
    waiting = list(scripts)
    while waiting:
        path = waiting.pop()
        new = _imports(path.read_text(encoding="utf-8"), str(path)) - modules
        modules |= new
        files = {file for module in new if (file := _file_of(module, source))} - found
        found |= files
        waiting += files
    return found


def uncovered(root: Path, code: Sequence[str]) -> list[str]:
    """Return the files that the code of a stage imports although they are not among it, nor exempt.

    `code` are files and folders of the project, the stage's script first; see `families.code_of`. A dependency on
    whatever method params.yaml names, such as src/netpress/models/${item.arch}.py, stands for all files of its folder.
    """
    folders = [root / dep.rpartition("/")[0] for dep in code if "$" in dep]
    places = [root / dep for dep in code if "$" not in dep]
    places += [path for folder in folders for path in folder.glob("*.py") if not path.stem.startswith("_")]
    scripts = [path for place in places for path in (sorted(place.rglob("*.py")) if place.is_dir() else [place])]
    free = (*places, *(root / PACKAGE / name for name in EXEMPT))
    found = {
        path for path in local_imports(scripts, root / "src") if not any(path.is_relative_to(place) for place in free)
    }
    return sorted(path.relative_to(root).as_posix() for path in found)


@functools.lru_cache(maxsize=1024)  # each stage asks of the same files; an edited text is another key
def _imports(text: str, name: str) -> frozenset[str]:
    """Return the modules that a Python file imports, and what might be modules."""
    imports: set[str] = set()
    for node in ast.walk(ast.parse(text, name)):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(imports)


def _file_of(module: str, source: Path) -> Path | None:
    """Return the module's file, if it is one of the package; packages hold words and re-exports alone."""
    parts = module.split(".")
    path = source.joinpath(*parts).with_suffix(".py")
    return path if parts[0] == PACKAGE.name and parts[1:2] != [] and parts[1] not in EXEMPT and path.is_file() else None
