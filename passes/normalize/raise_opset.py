"""Raise a graph to a newer opset of the ONNX domain.

onnx's own version converter is not used: it changes Upsample and Resize in silence and fails on old models.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
import onnx_graphsurgeon as gs

from onnxmpq.errors import ModelError, OptionError
from onnxmpq.passes.matching import graphs, is_standard, label
from onnxmpq.passes.node_builder import builders
from onnxmpq.passes.normalize.opset_rules import RULES

OLDEST_SOURCE = 6
_TARGETS = range(13, 26)
NEWEST_TARGET = _TARGETS[-1]


@dataclass(frozen=True, slots=True)
class RaiseOpset:
    """Rewrite every standard operator to its form in opset `target` (13 to 25); preserving.

    Goes up one opset at a time, through subgraphs too, so that each rule of `opset_rules.RULES` knows one change
    only. A graph at or above the target is left as it is. Types and shapes of the graph's variables are used where
    they are known (`import_graph`). Raises OptionError for another target, and ModelError, with the graph
    partly rewritten, for an opset below 6 and for a node that the target cannot express.
    """

    target: int

    def __post_init__(self) -> None:
        if self.target not in _TARGETS:
            raise OptionError(
                f"opset {self.target} was asked for; graphs can be raised to {_TARGETS[0]} up to {_TARGETS[-1]}"
            )

    def __call__(self, graph: gs.Graph) -> bool:
        source = graph.opset
        if source >= self.target:
            return False
        if source < OLDEST_SOURCE:
            raise ModelError(
                f"the model has opset {source}, the oldest supported is {OLDEST_SOURCE}; export it again"
            )
        for opset in range(source + 1, self.target + 1):
            _raise_by_one(graph, opset)
        for inner in graphs(graph):
            for node in filter(is_standard, inner.nodes):
                _require_schema(node, source, self.target)
            _set_opset(inner, self.target)
        graph.toposort()
        return True


def _raise_by_one(graph: gs.Graph, opset: int) -> None:
    rules = RULES.get(opset, {})
    for build in builders(graph) if rules else ():
        for node in [n for n in build.graph.nodes if n.op in rules and is_standard(n)]:
            rules[node.op](build, node)


def _require_schema(node: gs.Node, source: int, target: int) -> None:
    """Raise ModelError unless the target opset has the operator, with the node's attributes and inputs."""
    problem = _disagreement(node, target)
    if problem:
        raise ModelError(
            f"{node.op} {label(node)} cannot be raised from opset {source} to {target}: {problem}; "
            f"export the model with opset {target} or close to it"
        )


def _disagreement(node: gs.Node, target: int) -> str:
    try:
        schema = onnx.defs.get_schema(node.op, target, "")
    except onnx.defs.SchemaError:
        return "that opset has no such operator"
    if schema.deprecated:
        return "that opset has it no longer"
    unknown = sorted(set(node.attrs) - set(schema.attributes))
    if unknown:
        return f"that opset does not know the attribute {unknown[0]!r} = {node.attrs[unknown[0]]!r}"
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return f"it has {len(node.inputs)} inputs, that opset wants {schema.min_input} to {schema.max_input}"
    return ""


def _set_opset(graph: gs.Graph, opset: int) -> None:
    others = [o for o in graph.import_domains or () if o.domain]
    graph.opset = opset
    graph.import_domains = [onnx.helper.make_opsetid("", opset), *others]
