"""Which local files a script imports, found by reading the code."""

import ast
from pathlib import Path

SOURCE = Path(__file__).parent.parent / "src"


def local_imports(script: Path) -> set[Path]:
    """Return every file under src/ that `script` imports, directly or not, also inside functions."""
    found: set[Path] = set()
    waiting = [script]
    while waiting:
        for path in _imported_by(waiting.pop()):
            if path not in found:
                found.add(path)
                waiting.append(path)
    return found


def _imported_by(path: Path) -> set[Path]:
    found: set[Path] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            found |= _files_of(name)
    return found


def _files_of(module: str) -> set[Path]:
    """The module's file and the packages above it, without empty `__init__` files and those of docs alone."""
    parts = module.split(".")
    if parts[0] != "netpress":
        return set()
    candidates = [SOURCE.joinpath(*parts).with_suffix(".py")]
    candidates += [SOURCE.joinpath(*parts[:n], "__init__.py") for n in range(1, len(parts) + 1)]
    return {path for path in candidates if path.is_file() and _has_code(path)}


def _has_code(path: Path) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return any(not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) for node in tree.body)
