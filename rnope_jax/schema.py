"""Typed, validated, JSON-ready dataclasses: the base of every configuration value."""

import dataclasses
import difflib
import sys
import types
from collections.abc import Iterator
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from rnope_jax.errors import ConfigError

#: Resolved annotations by class: resolving them is slow.
_TYPES: dict[type, dict[str, Any]] = {}

#: What a `problems` method yields: field name and what is wrong with its value.
Problem = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class Schema:
    """Base of frozen dataclasses whose fields are checked on construction.

    A field's type is enforced (an int is accepted and converted where a float is expected, a list
    where a tuple is), then `problems` may report values that make no sense.
    """

    def __post_init__(self) -> None:
        for name, annotation in _types(type(self)).items():
            value = _coerce(getattr(self, name), annotation, f"{self.path()}.{name}")
            object.__setattr__(self, name, value)
        for name, message in self.problems():
            field, _, rest = name.partition(".")
            value = getattr(self, field)
            for part in rest.split(".") if rest else ():
                value = value[int(part)] if isinstance(value, tuple) else getattr(value, part)
            raise ConfigError(f"{self.path()}.{name} = {value!r}: {message}")

    def path(self) -> str:
        """Where this value sits in a `Config`, for error messages."""
        return type(self).__name__

    def problems(self) -> Iterator[Problem]:
        """Yields `(field, message)` for every value that cannot be honoured."""
        yield from ()

    def to_dict(self) -> dict[str, Any]:
        """The value as nested dicts and lists that JSON can hold."""
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_dict(cls, data: dict[str, Any], path: str = "") -> Self:
        """Reads back what `to_dict` wrote.

        Raises:
          ConfigError: on unknown or missing fields and on values of the wrong type.
        """
        where = path or cls.__name__
        if not isinstance(data, dict):
            raise ConfigError(f"{where} = {data!r}: expected an object with the fields of {cls.__name__}")
        hints = _types(cls)
        for name in data:
            if name not in hints:
                raise ConfigError(unknown_field(cls, name, where))
        for field in dataclasses.fields(cls):
            no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if no_default and field.name not in data:
                raise ConfigError(f"{where}.{field.name}: missing; give it a value")
        return cls(**{k: _coerce(v, hints[k], f"{where}.{k}") for k, v in data.items()})


def unknown_field(cls: type, name: str, where: str) -> str:
    """The message for a field that `cls` does not have, with the nearest one that it has."""
    names = [f.name for f in dataclasses.fields(cls)]
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has: {', '.join(names)}"
    return f"{where}.{name}: there is no such field; {hint}"


def differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields `(field path, old value, new value)` for every leaf in which two plain trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in dict.fromkeys([*old, *new]):
            yield from differences(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for i, (a, b) in enumerate(zip(old, new, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif old != new:
        yield path, old, new


def _types(cls: type[Schema]) -> dict[str, Any]:
    """The type of each field."""
    if cls not in _TYPES:
        hints = get_type_hints(cls)
        _TYPES[cls] = {f.name: hints[f.name] for f in dataclasses.fields(cls)}
    return _TYPES[cls]


def _plain(value: Any) -> Any:
    if isinstance(value, Schema):
        return value.to_dict()
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _coerce(value: Any, annotation: Any, path: str) -> Any:
    """`value` as `annotation` wants it, or a ConfigError that names `path`."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        (inner,) = [a for a in args if a is not type(None)]
        return _coerce(value, inner, path)
    if origin is Literal:
        if value not in args:
            near = difflib.get_close_matches(str(value), [str(a) for a in args], n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ConfigError(f"{path} = {value!r}: must be one of {', '.join(map(repr, args))}{hint}")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise ConfigError(f"{path} = {value!r}: expected a sequence")
        return tuple(_coerce(v, args[0], f"{path}[{i}]") for i, v in enumerate(value))
    if isinstance(annotation, type) and issubclass(annotation, Schema):
        if isinstance(value, dict):
            return annotation.from_dict(value, path)
        expected = annotation.__name__
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not abs(value) <= sys.float_info.max:  # true of NaN and of ints beyond any float, too
                raise ConfigError(f"{path} = {value!r}: must be finite")
            return float(value)
        expected = "a number"
    else:
        expected = {int: "a whole number", bool: "True or False", str: "text"}.get(annotation, str(annotation))
    if not isinstance(value, annotation) or (annotation is int and isinstance(value, bool)):
        raise ConfigError(f"{path} = {value!r}: expected {expected}, got {type(value).__name__}")
    return value
