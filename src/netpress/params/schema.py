"""Strict, frozen configs, and pydantic's complaints in the words of params.yaml."""

import types
import typing
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeVar

import annotated_types
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator
from pydantic.fields import FieldInfo

from netpress.base.errors import NetpressError, ParamsError
from netpress.base.words import did_you_mean


class Strict(BaseModel):
    """A frozen config that refuses unknown keys, numbers as text, infinities and NaN."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


T = TypeVar("T", bound=Strict)
#: What `auto` becomes; no number that may be `auto` has another use for 0.
AUTO = 0
#: Lets a number also be `auto`.
OrAuto = WrapValidator(lambda value, check: AUTO if value == "auto" else check(value))
#: What `all` becomes; there is no training by 0 devices.
ALL = 0
#: Lets a number also be `all`.
OrAll = WrapValidator(lambda value, check: ALL if value == "all" else check(value))
#: What `last` becomes; rounds are counted from 1.
LAST = 0
#: Lets the number of a round also be `last`.
OrLast = WrapValidator(lambda value, check: LAST if value == "last" else check(value))
#: Lets a share above 0 also be `none`, which becomes 0.
OrNone = WrapValidator(lambda value, check: 0.0 if value == "none" else check(value))
#: A fraction that may be nothing, and is never all.
Share = Annotated[float, Field(ge=0, lt=1)]
#: Rules of a field: their key, the words for it, and whether entries or characters are counted.
BOUNDS = (
    (annotated_types.Ge, "ge", "at least", False),
    (annotated_types.Gt, "gt", "above", False),
    (annotated_types.Le, "le", "at most", False),
    (annotated_types.Lt, "lt", "below", False),
    (annotated_types.MinLen, "min_length", "at least", True),
    (annotated_types.MaxLen, "max_length", "at most", True),
)
#: Characters of a value that a message shows: a sha256 with its quotes.
SHOWN = 66
#: Faults of a file put into words; nobody fixes more in one go.
MAX_FAULTS = 1000


def parse(cls: type[T], raw: Any, where: str) -> T:
    """Validate `raw` as `cls`; every fault is named in one `ParamsError`, one line each.

    `where` is the dotted key under which `raw` stands in params.yaml ("" for the whole file).
    """
    try:
        return cls.model_validate(raw)
    except ValidationError as error:
        raise ParamsError([_fault(cls, fault, where) for fault in _found(error)]) from None


def misfits(cls: type[BaseModel], raw: Any, where: str) -> list[tuple[str, str]]:
    """Return what `parse` would say of the fields' types and ranges.

    What validators of `cls` say is left out: it may be of the machine, such as a file that is not there.
    """
    try:
        cls.model_validate(raw)
    except ValidationError as error:
        return [_fault(cls, fault, where) for fault in _found(error) if fault["type"] != "value_error"]
    except NetpressError:
        pass
    return []


def _found(error: ValidationError) -> list[Any]:
    return list(error.errors(include_url=False)[:MAX_FAULTS])


def _fault(cls: type[BaseModel], fault: Any, where: str) -> tuple[str, str]:
    """Return the dotted key of one of pydantic's complaints, and the complaint in our words."""
    # "[key]" marks a fault of a dictionary's key itself, "function-..." and union tags are pydantic's own.
    loc = [part for part in fault["loc"] if part != "[key]"]
    key = ".".join([where, *map(str, loc)] if where else map(str, loc)) or "the file"
    owner, field = _resolve(cls, loc)
    if fault["type"] == "extra_forbidden":
        known = [f.alias or n for n, f in owner.model_fields.items()] if owner else []
        allowed = ", ".join(known) or "none"
        return key, f"{key}: unknown key{did_you_mean(str(loc[-1]), known)}; allowed: {allowed}"
    allowed = _describe(field) if field else "a section of keys and values"
    if fault["type"] == "missing":
        return key, f"{key}: missing; add it, {allowed}"
    if "[key]" in fault["loc"]:
        rule = "use lower-case letters, digits and underscores, at most 64 characters"
        return key, f"{key}: the name is not allowed: {rule}"
    value = fault["input"]
    if fault["type"] == "value_error":
        return key, f"{key} = {_short(value)}: {fault['ctx']['error']}"
    return key, f"{key} = {_short(value)}: must be {allowed}{_hint(field, value)}"


def _hint(field: FieldInfo | None, value: Any) -> str:
    """Name the nearest word that would do, if there is one."""
    if field is None or not isinstance(value, str):
        return ""
    words = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is Literal else ()
    truth = field.annotation is bool or any(isinstance(word, bool) for word in words)
    if truth and value.lower() in ("yes", "no", "on", "off", "true", "false", "y", "n"):
        return f"; write {'true' if value.lower() in ('yes', 'on', 'true', 'y') else 'false'}, without quotes"
    return did_you_mean(value, [word for word in words if isinstance(word, str)]) if words else ""


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else text[: SHOWN - 3] + "..."


def _resolve(cls: type[BaseModel], loc: Sequence[Any]) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """Walk `loc` through nested configs: the config that owns the last key, and what it takes, if known."""
    owner: Any = cls
    last_owner: Any = cls
    field: FieldInfo | None = None
    for part in loc:
        last_owner = owner
        if isinstance(owner, type) and issubclass(owner, BaseModel):
            field = next((f for n, f in owner.model_fields.items() if part in (n, f.alias)), None)
        elif typing.get_origin(owner) in (dict, list, tuple):
            args = typing.get_args(owner)  # (key, value), (entry,) or (entry, ...)
            field = FieldInfo.from_annotation(args[1 if typing.get_origin(owner) is dict else 0])
        else:
            break
        if field is None:
            break
        owner = FieldInfo.from_annotation(_stated(field.annotation)).annotation  # without what Annotated adds
    is_model = isinstance(last_owner, type) and issubclass(last_owner, BaseModel)
    return (last_owner if is_model else None), field


def _stated(annotation: Any) -> Any:
    """Return the type of what may also be absent."""
    types_of = [entry for entry in typing.get_args(annotation) if entry is not type(None)]
    union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return types_of[0] if union and len(types_of) == 1 else annotation


def _describe(field: FieldInfo) -> str:
    """Say in words what `field` takes: its type and its range."""
    words = _type_words(field.annotation)
    unit = "characters" if field.annotation is str else "entries"
    bounds: list[str] = []
    for rule in (*field.metadata, *FieldInfo.from_annotation(_stated(field.annotation)).metadata):
        for kind, key, phrase, counts in BOUNDS:
            if isinstance(rule, kind):
                start = "with " if counts and not bounds else ""
                bounds.append(f"{start}{phrase} {getattr(rule, key)}{f' {unit}' if counts else ''}")
    text = " and ".join([f"{words} {bounds[0]}", *bounds[1:]]) if bounds else words
    return f"{text} ({field.description})" if field.description else text


def _type_words(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is Literal:
        return "one of " + ", ".join(
            str(v).lower() if isinstance(v, bool) else str(v) for v in typing.get_args(annotation)
        )
    if origin is typing.Annotated:
        return _type_words(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_words(arg) for arg in typing.get_args(annotation))
    simple = {int: "a whole number", float: "a number", bool: "true or false", str: "text", type(None): "nothing"}
    if annotation in simple:
        return simple[annotation]
    return "a list" if origin in (list, tuple) else "a section of keys and values"
