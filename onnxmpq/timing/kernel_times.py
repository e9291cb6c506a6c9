"""What each node takes of a run, as ONNX Runtime's profile tells it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.errors import EngineError
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array

_KERNEL_EVENT = "_kernel_time"
_CONTROL_FLOW = frozenset({"If", "Loop", "Scan"})


@dataclass(frozen=True, slots=True)
class KernelTime:
    """A node of the graph that the runtime really runs, named as there, and its mean seconds in a run."""

    name: str
    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    seconds: float


def kernel_times(
    runtime: Runtime, model: onnx.ModelProto, feeds: Mapping[str, Array], runs: int
) -> tuple[KernelTime, ...]:
    """What each node of the graph that the runtime makes of `model` takes, in order of execution.

    The mean of the faster three quarters of `runs` runs: a node is a few of the clock's microseconds. On a
    provider that queues its kernels these are times of launching them.

    Raises EngineError where the runtime refuses the model or tells no times.
    """
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "optimized.onnx"
        session = runtime.session(model, save_optimized=saved, profile=Path(folder) / "times")
        for _ in range(runs):
            session.run(feeds)
        events = json.loads(session.end_profile().read_bytes())
        nodes = onnx.load(saved, load_external_data=False).graph.node
    durations = _durations(events)
    names = _profiled_names(nodes, durations)
    if not all(name in durations for name in names):
        raise EngineError("ONNX Runtime's profile lacks some of the nodes that it ran; name the nodes apart")
    return tuple(
        KernelTime(name, n.op_type, tuple(n.input), tuple(n.output), _typical(durations[name]))
        for n, name in zip(nodes, names, strict=True)
    )


def _durations(events: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    """Microseconds of every run of each node, by its name; what ran inside another one counts for that alone."""
    found: dict[str, list[float]] = {}
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL_EVENT)]
    outer = [e for e in kernels if e["args"].get("op_name") in _CONTROL_FLOW]
    for event in kernels:
        if not any(_is_inside(event, other) for other in outer):
            found.setdefault(event["name"].removesuffix(_KERNEL_EVENT), []).append(event["dur"])
    return found


def _is_inside(event: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    (start, end), (opens, closes) = ((e["ts"], e["ts"] + e["dur"]) for e in (event, other))
    return event is not other and opens <= start and end <= closes


def _profiled_names(nodes: Sequence[onnx.NodeProto], known: Iterable[str]) -> list[str]:
    """What the profile calls each node: by its name or, where it has none, by its operator and a number.

    Such nodes are of functions that the runtime knows and inlines (HardSwish, GroupNormalization). Those of one
    operator ran in the order in which they stand in the file.
    """
    own = {node.name for node in nodes}
    unnamed: dict[str, list[str]] = {}
    for name in known:
        operator, _, number = name.rpartition("_")
        if name not in own and number.isdecimal():
            unnamed.setdefault(operator, []).append(name)
    waiting = {operator: iter(names) for operator, names in unnamed.items()}
    return [node.name or next(waiting.get(node.op_type, iter(())), "") for node in nodes]


def _typical(durations: Sequence[float]) -> float:
    """Mean of the faster three quarters, in seconds: not the waits for other programs."""
    fastest = sorted(durations)[: -(-3 * len(durations) // 4)]
    return sum(fastest) / len(fastest) / 1e6
