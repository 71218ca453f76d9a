"""Check what a JSON file says, field by field, against the annotations of a dataclass.

JSON as Python reads it may hold anything: NaN, infinities, whole numbers without end, `true` where
a number belongs. What passes here is of the right kind; each class checks its own ranges.
"""

from collections.abc import Iterator
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

# The largest of a kind, and the longest text (a path may be so long). A rate is a product of four
# numbers, which float32 can hold if each of them is bounded so.
MOST = {int: 2**40, float: 1e8, str: 4096}
NAME = 120  # characters of a field's whole name, which bounds how deep values are nested
WORDS = {
    bool: "true or false",
    int: "a whole number, 2**40 at most",
    float: "a number, 1e8 at most",
    str: "a text of 4,096 characters at most",
    list: "a list",
    tuple: "a list",
    dict: "an object",
    NoneType: "null",
}
ALSO = {float: (float, int), tuple: (tuple, list)}  # what JSON may say for a kind


def arguments(
    kind: type,  # a dataclass
    given: Any,  # what JSON says; an object with the fields is needed
    name: str,  # what the errors call it
) -> dict[str, Any]:
    """The keyword arguments that make a `kind`. Raises ValueError that names the wrong field."""
    check(dict, given, name)
    known = {field.name: field for field in fields(kind)}
    for key in given:
        if key not in known:
            raise ValueError(f"{name} does not know {shown(key)}; it has {', '.join(known):.250}.")
    for field in known.values():
        if field.name not in given and field.default is field.default_factory is MISSING:
            raise ValueError(f"{name} lacks {field.name!r}.")
    hints = get_type_hints(kind)
    return {key: check(hints[key], value, f"{name}.{key}") for key, value in given.items()}


def check(
    kind: Any,  # an annotation
    value: Any,  # what JSON says
    name: str,  # of the field
) -> Any:
    """The value, as a tuple or dataclass where `kind` is one. Raises ValueError if it is wrong."""
    if len(name) > NAME:
        raise ValueError(f"{name:.60}... is nested too deeply, or has too long a name.")
    inner = get_args(kind)
    if len(inner) == 2 and NoneType in inner:  # X | None
        return None if value is None else check(inner[0], value, name)
    if is_dataclass(kind):
        made = getattr(kind, "from_json", lambda given: kind(**arguments(kind, given, name)))
        return made(value)
    if (get_origin(kind) or kind) not in WORDS:  # Any, or what a reader's own trick may say
        kind = {list: list[Any], dict: dict[str, Any]}.get(type(value), type(value))
    outer, inner = get_origin(kind) or kind, get_args(kind)
    size = len(value) if isinstance(value, str) else value if isinstance(value, (int, float)) else 0
    right = isinstance(value, ALSO.get(outer, outer)) and abs(size) <= MOST.get(outer, 1)
    if isinstance(value, bool):  # to Python a number too
        right = outer is bool
    if outer not in WORDS or not right:
        raise ValueError(f"{name} must be {WORDS.get(outer, 'plain')}, not {shown(value)}.")
    if outer is dict and inner:
        return {key: check(inner[1], item, f"{name}[{shown(key)}]") for key, item in value.items()}
    if inner:
        return outer(check(inner[0], item, f"{name}[{n}]") for n, item in enumerate(value))
    return value


def shown(value: Any) -> str:
    """A value in 60 characters at most, on one line; of a list or object, only that it is one."""
    if isinstance(value, (list, tuple, dict)):
        return WORDS[type(value)]
    return f"{value!r:.60}"


def differences(there: Any, here: Any, name: str = "") -> Iterator[str]:
    """In words, where two nests of plain values differ."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in here | there:
            inner = f"{name}.{key}" if name else key
            yield from differences(there.get(key), here.get(key), inner)
    elif there != here:
        yield f"{name} is {there} there and {here} here"


def refuse_another(there: Any, here: Any, folder: Path) -> None:
    """Raise ValueError, with the differences, where a folder keeps another run than this one."""
    other = "; ".join(differences(there, here))
    if other:
        raise ValueError(f"{folder} keeps another run ({other:.500}); name another folder.")
