"""Every node of a written model has a name of its own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import count

import onnx

from onnxmpq.onnx_io.contents import graphs
from onnxmpq.operators import OPERATORS


def name_nodes(model: onnx.ModelProto) -> None:
    """Name every node that has no name or shares it, in place, control-flow bodies too: some runtimes need it (tract).

    What may be a layer is named after its output, as it is called anyway. Others get a number, behind the name that
    they share or alone: it takes bytes, and nobody looks for the nodes that unpack weights. None is called as a constant or an
    input of the graph is, of which tract makes nodes, too.
    """
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    counts = Counter(node.name for node in nodes)
    taken = {name for name, times in counts.items() if times == 1}
    taken.update(
        tensor.name for graph in graphs(model.graph) for tensor in (*graph.initializer, *graph.input)
    )
    fresh: dict[str, Iterator[str]] = {}
    for node in nodes:
        if not node.name or counts[node.name] > 1:
            stem = node.output[0] if _is_called_by_output(node) else node.name
            node.name = next(name for name in fresh.setdefault(stem, _names(stem)) if name not in taken)
            taken.add(node.name)


def _is_called_by_output(node: onnx.NodeProto) -> bool:
    """True for an operator with weights; most sums have none."""
    return node.op_type in OPERATORS and OPERATORS[node.op_type].use != "sum"


def _names(stem: str) -> Iterator[str]:
    """The stem, then with numbers; numbers alone without one."""
    if stem:
        yield stem
    yield from (f"{stem}_{i}" if stem else str(i) for i in count())
