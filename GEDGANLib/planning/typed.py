"""Plain JSON types -> frozen dataclasses, with words for people about what does not fit."""

from __future__ import annotations

from dataclasses import MISSING, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import InputError


def build(kind: Any, value: Any, source: str, place: str) -> Any:
    """A value of plain JSON types as ``kind``: a dataclass, a tuple of something, or a number, text or truth.

    :param place: where in the plan the value stands, for messages.
    :raises InputError: missing or unknown entries, values of another type.
    """
    hint = "Correct what was edited last, or make a new plan with `gedgan plan`."
    if is_dataclass(kind):
        if not isinstance(value, dict):
            raise InputError(f"{source} is not a complete plan: {place or 'it'} has no entries.", hint)
        known = {entry.name: entry for entry in fields(kind)}
        prefix = f"{place}." if place else ""
        for name in value:
            if name not in known:
                raise InputError(f"{source}: there is no entry called {prefix}{name}.", hint)
        for name, entry in known.items():
            if name not in value and entry.default is MISSING and entry.default_factory is MISSING:
                raise InputError(f"{source} is not a complete plan: {prefix}{name} is missing.", hint)
        types = get_type_hints(kind)
        return kind(**{name: build(types[name], part, source, f"{prefix}{name}") for name, part in value.items()})
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{source}: {place} must be a list.", hint)
        return tuple(build(inner, part, source, place) for part in value)
    if get_origin(kind) is dict:
        return _frozen(value)
    right = isinstance(value, kind) or (kind is float and isinstance(value, int))
    if not right or (isinstance(value, bool) and kind is not bool):
        words = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}[kind]
        raise InputError(f"{source}: {place} is {value!r} and must be {words}.", hint)
    return float(value) if kind is float else value


def _frozen(value: Any) -> Any:
    """Lists of a JSON value as tuples, so that plans compare and hash."""
    if isinstance(value, list):
        return tuple(_frozen(part) for part in value)
    return {key: _frozen(part) for key, part in value.items()} if isinstance(value, dict) else value
