"""Which local files a stage imports, found by reading the code, and whether its dependencies in dvc.yaml cover them."""

import ast
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGE = Path("src/netpress")
#: A dependency on the method or architecture that params.yaml names, such as src/netpress/distill/${item.method}.py.
TEMPLATED = re.compile(r"src/netpress/([\w/]+)/\$\{[\w.]+\}\.py")


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
        new = set(_content(path.read_text(encoding="utf-8"), str(path)).imports) - modules
        modules |= new
        files = {file for module in new for file in _files_of(module, source)} - found
        found |= files
        waiting += files
    return found


def missing_deps(root: Path, stage: Mapping[str, Any]) -> list[str]:
    """Return the files that a stage of dvc.yaml, or a method it may load, imports although no dependency covers them.

    `stage` is the stage's body (below `do:` for a foreach), with `${...}` as written.
    """
    deps = _names(stage)
    needed = local_imports([_script(root, stage), *_members(root, deps)], root / "src")
    names = sorted(path.relative_to(root).as_posix() for path in needed)
    return [name for name in names if not any(name == dep or name.startswith(f"{dep}/") for dep in deps)]


def needless_deps(root: Path, stage: Mapping[str, Any]) -> list[str]:
    """Return the code among the dependencies of a stage that neither it nor a method it may load imports."""
    script, deps = _script(root, stage), _names(stage)
    # Whoever rebuilds a parent loads the architecture that its spec names.
    loads_models = root / PACKAGE / "models/__init__.py" in local_imports([script], root / "src")
    starts = {script, *_members(root, deps), *(_family(root, "models") if loads_models else [])}
    used = local_imports(starts, root / "src") | starts
    needless = []
    for dep in deps:
        # The members of `sources` are imported by name, and all of them belong to one stage.
        if not dep.startswith(("src/", "stages/")) or "$" in dep or dep == f"{PACKAGE.as_posix()}/sources":
            continue
        path = root / dep
        if path not in used and not any(path in other.parents for other in used):
            needless.append(dep)
    return needless


def _names(stage: Mapping[str, Any]) -> Sequence[str]:
    return [dep if isinstance(dep, str) else next(iter(dep)) for dep in stage.get("deps", [])]


def _script(root: Path, stage: Mapping[str, Any]) -> Path:
    return root / str(stage["cmd"]).split()[1]


def _members(root: Path, deps: Sequence[str]) -> list[Path]:
    families = [match[1] for dep in deps if (match := TEMPLATED.fullmatch(dep))]
    return [path for family in families for path in _family(root, family)]


def _family(root: Path, name: str) -> list[Path]:
    return [path for path in sorted((root / PACKAGE / name).glob("*.py")) if not path.stem.startswith("_")]


@dataclass(frozen=True)
class _Content:
    """What a Python file imports, by the modules' names, and whether there is more to it than docs."""

    imports: frozenset[str]
    has_code: bool


@functools.lru_cache(maxsize=1024)  # each stage asks of the same files; an edited text is another key
def _content(text: str, name: str) -> _Content:
    tree = ast.parse(text, name)
    imports: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            imports |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    docs = [isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in tree.body]
    return _Content(frozenset(imports), not all(docs))


def _files_of(module: str, source: Path) -> set[Path]:
    """The module's file and the packages above it, without empty `__init__` files and those of docs alone."""
    parts = module.split(".")
    if parts[0] != PACKAGE.name:
        return set()
    candidates = [source.joinpath(*parts).with_suffix(".py")]
    candidates += [source.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return {path for path in candidates if path.is_file() and _has_code(path)}


def _has_code(path: Path) -> bool:
    return _content(path.read_text(encoding="utf-8"), str(path)).has_code
