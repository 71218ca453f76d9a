"""Check what a JSON file says, field by field, against the annotations of a dataclass.

JSON as Python reads it may hold anything: NaN, infinities, whole numbers without end, `true` where
a number belongs. What passes here is of the right kind; each class checks its own ranges.
"""

import math
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

LARGEST = 2**63  # whole numbers stay below it, and so fit into 64 bits
TEXT = 4096  # characters of a text: a path may be so long
NAME = 120  # characters of a field's whole name, which bounds how deep values are nested
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a finite number",
    str: f"a text of {TEXT:,} characters at most",
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
    right = isinstance(value, ALSO.get(outer, outer))
    if isinstance(value, bool):  # to Python a number too
        right = outer is bool
    if outer not in WORDS or not right or too_large(value):
        raise ValueError(f"{name} must be {WORDS.get(outer, 'plain')}, not {shown(value)}.")
    if outer is dict and inner:
        return {key: check(inner[1], item, f"{name}[{shown(key)}]") for key, item in value.items()}
    if inner:
        return outer(check(inner[0], item, f"{name}[{n}]") for n, item in enumerate(value))
    return value


def too_large(value: Any) -> bool:
    """Whether a number is not finite or has more than 64 bits, or a text is longer than a path."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, str):
        return len(value) > TEXT
    return isinstance(value, int) and abs(value) >= LARGEST


def shown(value: Any) -> str:
    """A value in 60 characters at most, on one line; of a list or object, only that it is one."""
    if isinstance(value, (list, tuple, dict)):
        return WORDS[type(value)]
    if isinstance(value, int) and too_large(value):
        return "one of more than 64 bits"
    return f"{value!r:.60}"


def versioned(
    given: Any,  # what JSON says
    schema: int,  # the number of the version that this is
    name: str,  # what the errors call it
) -> dict[str, Any]:
    """The fields without the schema number. Raises ValueError where that is another.

    Without a number it is of the first version, whose fields were the same.
    """
    number = check(dict, given, name).get("schema", schema)
    if type(number) is not int or number != schema:
        raise ValueError(f"{name} has schema {shown(number)}; this version reads {schema}.")
    return {key: value for key, value in given.items() if key != "schema"}
