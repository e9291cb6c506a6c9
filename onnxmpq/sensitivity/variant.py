"""Options of methods: what may be chosen, and what a method is called that runs with its own."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from onnxmpq.errors import OptionError


def require_known(method: str, what: str, value: str, known: Collection[str]) -> None:
    """Raise OptionError for an option's value that is none of the known ones."""
    if value not in known:
        raise OptionError(f"{method}'s {what} {value!r} is not known; choose {', '.join(known)}")


def require_count(method: str, what: str, value: float, least: int) -> None:
    """Raise OptionError for an option's number that is no integer, or below `least`."""
    if not isinstance(value, int) or value < least:
        raise OptionError(f"{method}'s {what} is {value!r}; wanted an integer of {least} or more")


def require_number(method: str, what: str, value: float, least: float, most: float = math.inf) -> None:
    """Raise OptionError for an option's number that is not finite, or not within [least, most]."""
    if not (isinstance(value, int | float) and math.isfinite(value) and least <= value <= most):
        reach = f"{least:g} or more" if most == math.inf else f"{least:g} to {most:g}"
        raise OptionError(f"{method}'s {what} is {value!r}; wanted {reach}")


def titled(name: str, method: Any) -> str:
    """A method's name, and in brackets those fields of its dataclass that are not as by default."""
    changed = list(_changed(method))
    return f"{name} ({', '.join(changed)})" if changed else name


def _changed(options: Any) -> Iterator[str]:
    for option in fields(options):
        value = getattr(options, option.name)
        default = option.default if option.default_factory is MISSING else option.default_factory()
        if is_dataclass(value):
            yield from _changed(value)
        elif value != default:
            yield f"{option.name} {value}"
