"""Sensitivity methods: one file each, one function each, `Probe -> CostTable`, or a path of plans."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from onnxmpq.data import Dataset
from onnxmpq.errors import OnnxmpqError, OptionError, nearest
from onnxmpq.metrics.metric import Metric
from onnxmpq.plugins import is_reference, load_attribute
from onnxmpq.sensitivity.methods.csmpq import csmpq
from onnxmpq.sensitivity.methods.first_order import FirstOrder
from onnxmpq.sensitivity.methods.fisher import fisher
from onnxmpq.sensitivity.methods.greedy import greedy
from onnxmpq.sensitivity.methods.limpq import Limpq, limpq
from onnxmpq.sensitivity.methods.measured import measured
from onnxmpq.sensitivity.methods.ompq import ompq
from onnxmpq.sensitivity.methods.semilayer import semilayer
from onnxmpq.sensitivity.methods.size import size
from onnxmpq.sensitivity.probe import Probe
from onnxmpq.sensitivity.saved import Saved, read_saved
from onnxmpq.values.costs import Sensitivity

Method = Callable[[Probe], Sensitivity]


METHODS: dict[str, Method] = {
    "measured": measured,
    "fisher": fisher,
    "size": size,
    "greedy": greedy,
    "first-order": FirstOrder(),
    "semilayer": semilayer,
    "csmpq": csmpq,
    "ompq": ompq,
    "limpq": limpq,
}


# Where variants of our methods stood before, as in onnxmpq.sensitivity.ompq:as_published, goes on working.
_MOVED = re.compile(rf"^onnxmpq\.sensitivity\.({'|'.join(name.replace('-', '_') for name in METHODS)}):")


def find_method(name: str) -> Method:
    """A built-in method by name, `file.py:function` or `module:function`, or `file.json`: what a compile saved.

    Raises OptionError with the nearest names for anything else, and for what is no function of a probe; for a
    file what `read_saved` raises.
    """
    if name in METHODS:
        return METHODS[name]
    if name.lower().endswith(".json"):
        return read_saved(Path(name))
    if not is_reference(name):
        raise OptionError(
            f"method {name!r} is not known; {nearest(name, METHODS) or 'built in: ' + ', '.join(METHODS)}. "
            "One of your own is named file.py:function, and what was saved FILE.json"
        )
    method: Method = load_attribute(_MOVED.sub(r"onnxmpq.sensitivity.methods.\1:", name))
    if isinstance(method, type) or not callable(method):
        kind = "class" if isinstance(method, type) else type(method).__name__
        raise OptionError(
            f"{name} is a {kind}; name a function from a Probe to a CostTable or a Trajectory, "
            "or a value that can be called like one"
        )
    return method


def is_demanding(method: Method) -> bool:
    """True for a method that does not work with every network and data: it has a `check_data` of its own."""
    return hasattr(method, "check_data")


def adds_up(method: Method) -> bool:
    """True for a method that says so: its costs add up nearly to the loss of a plan."""
    return bool(getattr(method, "adds_up", False))


def gives_path(method: Method) -> bool:
    """True for a method that says so: what it finds is a path of plans, and no table of costs."""
    return bool(getattr(method, "gives_path", False))


def is_ours(method: Method) -> bool:
    """True for the methods of this package, with whatever options: what they give need not be checked."""
    return (method.__module__ or "").startswith(f"{__name__}.")


def name_of(method: Method) -> str:
    """What to call a method in a message."""
    if isinstance(method, Saved):
        return method.file.name
    known = (name for name, ours in METHODS.items() if ours is method)
    return next(known, getattr(method, "__name__", type(method).__name__))


def ignores_training(method: Method) -> bool:
    """True for the methods of this package that have no use for training data; of others nobody knows."""
    return is_ours(method) and not isinstance(method, Limpq)


def check_data(method: Method, metric: Metric, data: Dataset, training: Dataset | None) -> None:
    """Let a demanding method say what it cannot work with before anything is measured.

    It raises OptionError or DataError, with the remedy; anything else becomes an OptionError.
    """
    if not is_demanding(method):
        return
    try:
        method.check_data(metric, data, training)  # type: ignore[attr-defined]
    except OnnxmpqError:
        raise
    except (Exception, SystemExit) as error:
        raise OptionError(f"the method's check_data failed: {type(error).__name__}: {error}") from error
