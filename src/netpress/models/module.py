"""A network of your own: a function in a file of the project. Its code is run; see docs/security.md.

The sha256 of the file stands in the options. So params.yaml says of which code a result is, a change of the file is an
edit of params.yaml that re-runs what it must, and a model is rebuilt by the code that it was made with or not at all.
"""

import sys
from pathlib import Path, PurePosixPath
from types import ModuleType
from typing import Any

from pydantic import Field, ValidationInfo, field_validator
from torch import nn

from netpress.base.errors import ParamsError
from netpress.base.files import sha256_bytes
from netpress.base.project import find_root
from netpress.params.schema import Strict

EXAMPLE = {
    "path": "nets/example.py",
    "sha256": "21ab2dd357edbb54e5ec76018e2026c44438f4aeb5dc23282f5ac3e4eb102beb",
    "factory": "build",
    "arguments": {"width": 16},
}


class Options(Strict):
    """Options of a network of one's own."""

    path: str = Field(max_length=200, description="a Python file inside the project, such as nets/example.py")
    sha256: str = Field(description="of that file; an error names it")
    factory: str = Field("build", description="a function of the file: (num_classes, in_channels, **arguments)")
    arguments: dict[str, Any] = Field({}, description="further arguments of the factory")

    @field_validator("path")
    @classmethod
    def _is_inside(cls, path: str) -> str:
        parts = PurePosixPath(path).parts
        if not path.endswith(".py") or path.startswith("/") or "\\" in path or ":" in path or ".." in parts:
            raise ValueError("name a Python file inside the project, from its folder on, without ..")
        root = find_root()
        if not (root / path).is_file():
            raise ValueError(f"there is no such file in {root}")
        if not (root / path).resolve().is_relative_to(root.resolve()):
            raise ValueError("it is a link that leads out of the project; put the file itself there")
        return path

    @field_validator("sha256")
    @classmethod
    def _is_of_the_file(cls, sha256: str, info: ValidationInfo) -> str:
        path = info.data.get("path")
        found = sha256_bytes((find_root() / path).read_bytes()) if path else sha256
        if sha256 != found:
            raise ValueError(f"{path} is another file, of the sha256 {found}; look at it, then write sha256: {found}")
        return sha256

    @property
    def file(self) -> Path:
        """The file on this machine."""
        return find_root() / self.path


def title(options: Options) -> str:
    """Return what messages call the network."""
    return f"{options.path}: {options.factory}"


def build(num_classes: int, in_channels: int, options: Options) -> nn.Module:
    """Run the file and its factory.

    Raises:
        ParamsError: the file fails, has no such function, or its function gives no module.
    """
    module = _imported(options)
    factory = getattr(module, options.factory, None)
    if not callable(factory):
        raise _error("factory", options.factory, f"{options.path} has no function of this name")
    try:
        network = factory(num_classes, in_channels, **options.arguments)
    except Exception as error:  # whatever it raises
        text = f"{options.path}: {options.factory}: {type(error).__name__}: {error}"
        raise _error("arguments", options.arguments, text) from None
    if not isinstance(network, nn.Module):
        raise _error("factory", options.factory, f"it gives a {type(network).__name__} and not a torch.nn.Module")
    return network


def _imported(options: Options) -> ModuleType:
    """Return the file as a module, run once per content in this process."""
    name = f"netpress_module_{options.sha256}"
    if name in sys.modules:
        return sys.modules[name]
    data, module = options.file.read_bytes(), ModuleType(name)
    if sha256_bytes(data) != options.sha256:
        raise _error("path", options.path, "the file was changed meanwhile; run this again")
    module.__file__ = str(options.file)
    sys.modules[name] = module  # classes look for their own module
    try:
        exec(compile(data, options.path, "exec"), vars(module))
    except Exception as error:
        del sys.modules[name]
        raise _error("path", options.path, f"it fails: {type(error).__name__}: {error}") from None
    return module


def _error(key: str, value: Any, text: str) -> ParamsError:
    key = f"options.{key}"
    return ParamsError([(key, f"{key} = {value!r}: {text.splitlines()[0]}")])
