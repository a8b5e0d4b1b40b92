"""What a parameter is: its type, its range, what a user must know of it. `hgt/config/` declares
them, section by section.

In: fields of dataclasses. Out: `Parameter` records, and values in their declared type or an
InputError.
"""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hgt.errors import InputError, quoted


@dataclass(frozen=True)
class Range:
    """The values that make sense of a number. Both ends belong to it, unless they are open.

    The upper ends are out of reach of any use; beyond them lie slips of the keyboard.
    """

    low: float | int
    high: float | int
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float | int) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        return above and (value < self.high if self.open_high else value <= self.high)

    def __str__(self) -> str:
        low, high = (f"{n:,}" if isinstance(n, int) else f"{n:g}" for n in (self.low, self.high))
        if not (self.open_low or self.open_high):
            return f"between {low} and {high}"
        least = "above" if self.open_low else "at least"
        return f"{least} {low} and {'below' if self.open_high else 'at most'} {high}"


Check = Callable[[str, Any], None]  # (name, value): raises InputError


def parameter(
    default: Any,
    help: str,
    unit: str = "",
    choices: tuple[str, ...] = (),
    changes_result: bool = True,
    range: Range | None = None,
    check: Check | None = None,
) -> Any:
    """A dataclass field that carries what a user must know of it; every number has a range.

    `changes_result=False` marks what only says where and how fast: a checkpoint may be continued
    with another value.
    check: what range and choices cannot say of a value that is given.
    """
    told = {"help": help, "unit": unit, "choices": choices, "changes_result": changes_result}
    return field(default=default, metadata=told | {"range": range, "check": check})


def require(good: bool, name: str, need: str, value: Any) -> None:
    """InputError unless good: `Parameter {name} must be {need}, not {value}.`"""
    if not good:
        value = list(value) if isinstance(value, tuple) else value
        raise InputError(f"Parameter {name} must be {need}, not {quoted(value)}.")


def check_values(section: Any) -> None:
    """InputError for the first value outside of its range, or else for one that its check refuses.

    section: a dataclass of parameters; it calls this in `__post_init__`. None is in every range.
    """
    given = [
        (f, value)
        for f in dataclasses.fields(section)
        if (value := getattr(section, f.name)) is not None
    ]
    for f, value in given:
        limits = f.metadata["range"]
        if limits is not None:
            require(value in limits, f.name, str(limits), value)
    for f, value in given:
        if f.metadata["check"] is not None:
            f.metadata["check"](f.name, value)


@dataclass(frozen=True)
class Parameter:
    """One leaf of RunConfig, as the command line, the flow and the README show it."""

    name: str
    group: str
    type: type  # the type of one value: int, float or str
    is_list: bool
    optional: bool
    default: Any
    unit: str
    help: str
    choices: tuple[str, ...]
    changes_result: bool
    range: Range | None
    check: Check | None


def parameters_of(groups: type) -> Iterator[Parameter]:
    """Every parameter in the order of declaration. groups: a dataclass of dataclasses of
    parameters
    """
    for group, kind in typing.get_type_hints(groups).items():
        hints = typing.get_type_hints(kind)
        for f in dataclasses.fields(kind):
            hint, optional = _without_none(hints[f.name])
            is_list = typing.get_origin(hint) is tuple
            yield Parameter(
                name=f.name,
                group=group,
                type=typing.get_args(hint)[0] if is_list else hint,
                is_list=is_list,
                optional=optional,
                default=f.default,
                **f.metadata,
            )


def _without_none(hint: Any) -> tuple[Any, bool]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        rest = [a for a in typing.get_args(hint) if a is not type(None)]
        return rest[0], True
    return hint, False


def coerced(p: Parameter, value: Any) -> Any:
    """The value in the declared type (JSON has lists for tuples and ints for floats), or
    InputError.
    """
    if value is None and p.optional:
        return None
    values = list(value) if p.is_list and isinstance(value, (list, tuple)) else [value]
    out = []
    for one in values:
        if (
            p.type is float
            and isinstance(one, int)
            and not isinstance(one, bool)
            and abs(one) < 2**1023
        ):
            one = float(one)
        if type(one) is not p.type:
            raise InputError(
                f"Parameter {p.name} takes {p.type.__name__} values, not {quoted(one)}."
            )
        if p.choices and one not in p.choices:
            raise InputError(
                f"Parameter {p.name} takes one of {', '.join(p.choices)}, not {quoted(one)}."
            )
        out.append(one)
    return tuple(out) if p.is_list else out[0]


def unknown_names(names: list[str], known: list[str]) -> str:
    """With the nearest known name of each; all known ones where nothing is near."""
    near = {name: difflib.get_close_matches(name, known, 1, 0.6) for name in names}
    told = [f"{quoted(n)} (did you mean {m[0]}?)" if m else quoted(n) for n, m in near.items()]
    what = "parameter" if len(names) == 1 else "parameters"
    known_ones = "" if all(near.values()) else f" Known are {', '.join(sorted(known))}."
    return f"Unknown {what} {', '.join(told)}.{known_ones}"
