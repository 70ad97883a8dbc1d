"""Methods and architectures, found by file name.

A family is a folder of the package, such as `models` or `distill/losses`. Each of its files whose name does not begin
with an underscore is one member, named as in params.yaml. All but data sources define `Options`, their frozen config,
and `EXAMPLE`, ordinary options. Nothing is registered anywhere else.
"""

import functools
import importlib
import inspect
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeGuard

from netpress.base.errors import NetpressError, ParamsError
from netpress.base.words import near_or_known

PACKAGE = Path(__file__).parent.parent
#: What Python calls code outside functions.
MODULE = "<module>"


class Kind(NamedTuple):
    """What the files of a family define.

    Attributes:
        word: what messages call such a file.
        call: the function that each defines, as it is called.
        optional: functions that one may define.
        config: whether it defines `Options` and `EXAMPLE`.
        knob: whether it defines `KNOB`: one of its options, and how to change it.
    """

    word: str
    call: str
    optional: tuple[str, ...] = ()
    config: bool = True
    knob: bool = False


#: Family -> its kind; docs/methods.md says what the functions are given and return.
KINDS = {
    "models": Kind(
        "architecture", "build(num_classes, in_channels, options)", ("initialize(network)", "title(options)")
    ),
    "ingest/sources": Kind("data source", "read(place, data, aside)", config=False),
    "distill/losses": Kind(
        "distillation method",
        "loss(student, teacher, targets, options, adapter)",
        (
            "taps(options)",
            "adapter(student, teacher, options)",
            "losses(student, teacher, targets, options, adapter)",
        ),
    ),
    "factorize/methods": Kind(
        "factorization method",
        "factorize(layer, options, inputs)",
        ("candidates(layer, options, inputs)",),
        knob=True,
    ),
    "prune/scores": Kind("pruning score", "scores(options)"),
    "prune/schedules": Kind("pruning schedule", "next_rate(round, left, rate, until, options)"),
    "quantize/methods": Kind("quantization method", "quantize(model, options)"),
}


def names(family: str) -> list[str]:
    """Return the members of `family`, sorted."""
    return sorted(f.stem for f in (PACKAGE / family).glob("*.py") if not f.stem.startswith("_"))


def load(family: str, name: str, where: str = "") -> ModuleType:
    """Import member `name` of `family`.

    Args:
        family: a folder of the package.
        name: of the file.
        where: the dotted key that names it.

    Raises:
        ParamsError: there is no such file, which lists what exists; it cannot be imported; or it lacks what the files
            of its family define.
    """
    known, prefix = names(family), f"{where}: " if where else ""
    if name not in known:
        text = f"{prefix}unknown {KINDS[family].word} '{name[:60]}'{near_or_known(name, known)}"
        raise ParamsError([(where, text)])
    try:
        module, faults = _member(family, name)
    except NetpressError:
        raise
    except Exception as error:  # whatever its code raises
        place = origin(error) or f"{KINDS[family].word} {name}, {_file(family, name)}"
        text = f"{prefix}{place}: {first_line(error)}"
        raise ParamsError([(where, text)]) from None
    if faults:
        raise ParamsError([(where, f"{prefix}{_file(family, name)}: {fault}; see docs/methods.md") for fault in faults])
    return module


@functools.cache
def _member(family: str, name: str) -> tuple[ModuleType, list[str]]:
    """Import a member, and say what it lacks."""
    module = importlib.import_module(f"netpress.{family.replace('/', '.')}.{name}")
    return module, list(_faults(module, KINDS[family]))


def _faults(module: ModuleType, kind: Kind) -> Iterator[str]:
    """Yield what is missing or wrong in a file of `kind`, and how it should look."""
    for call in (kind.call, *kind.optional):
        function = call.partition("(")[0]
        if not hasattr(module, function):
            if call == kind.call:
                yield f"defines no function {function}; define {call}"
        elif fault := misfit(getattr(module, function), call):
            yield fault
    if not kind.config:
        return
    from netpress.params.schema import Strict, misfits  # takes a tenth of a second

    options, example, knob = (getattr(module, key, None) for key in ("Options", "EXAMPLE", "KNOB"))
    if not (isinstance(options, type) and issubclass(options, Strict)):
        how = "import Strict from netpress.params.schema and define it, with a field for each option"
        yield f"defines no class Options(Strict); {how}"
        return
    fields = list(options.model_fields)
    if not isinstance(example, dict):
        yield "defines no EXAMPLE; define ordinary options, a dictionary such as {'rank': 0.5}, or {} if there are none"
    else:
        yield from (text for _, text in misfits(options, example, "EXAMPLE"))
    if kind.knob and not (_is_two_texts(knob) and knob[0] in fields):
        yield f"defines no KNOB that names an option; define ('OPTION', 'how to change it'), OPTION one of {fields}"


def _is_two_texts(value: Any) -> TypeGuard[tuple[str, str]]:
    return isinstance(value, tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)


def misfit(function: Any, call: str) -> str | None:
    """Return why `function` cannot be called as `call` says, such as `taps(options)`, or None where it can."""
    name, _, arguments = call.rstrip(")").partition("(")
    if not callable(function):
        return f"{name} is no function; define {call}"
    try:
        signature = inspect.signature(function)
    except ValueError:  # of one written in C
        return None
    try:
        signature.bind(*arguments.split(", "))
    except TypeError as error:
        return f"{name}({', '.join(signature.parameters)}) is called as {call}, and cannot be: {error}"
    return None


def origin(error: Exception) -> str | None:
    """Return the innermost line of a member's file in which `error` was raised or which it passed, or None.

    Such as `pruning score taylor, src/netpress/prune/scores/taylor.py line 12 in observe`.
    """
    passed = [(f.f_code.co_filename, line, f.f_code.co_name) for f, line in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, SyntaxError) and error.filename:  # the file did not run
        passed.append((error.filename, error.lineno or 0, MODULE))
    for path, line, function in reversed(passed):
        family = _folder_of(Path(path))
        if family in KINDS:
            inside = "" if function == MODULE else f" in {function}"
            return f"{KINDS[family].word} {Path(path).stem}, {_file(family, Path(path).stem)} line {line}{inside}"
    return None


def _folder_of(path: Path) -> str:
    """Return the folder of the package in which the file `path` lies, or nothing."""
    return path.parent.relative_to(PACKAGE).as_posix() if path.is_relative_to(PACKAGE) else ""


def first_line(error: Exception) -> str:
    """Return kind and first line of an exception, such as `KeyError: 'x'`."""
    return ": ".join([type(error).__name__, *str(error).splitlines()[:1]])


def in_words(value: Any) -> str:
    """Say what a function returned: its type, and the shape of what has one."""
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    return "None" if value is None else f"a {type(value).__name__}{shape}"


def _file(family: str, name: str) -> str:
    return f"src/netpress/{family}/{name}.py"
