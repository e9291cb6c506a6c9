"""Names that only take bytes become numbers, and long ones short: in small networks they are up to a third of the file."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import count, product

import onnx

from onnxmpq.onnx_io.contents import graphs
from onnxmpq.onnx_io.late_values import raw_bytes

_WORTH = 0.01  # of the model's bytes: for less, names stay as people know them
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
LONGEST = 64  # characters of a name that people still read; some exporters join those of all that they fused, by semicolons
_JOINED, _MARK = ";", 6  # digits that tell names of one beginning apart


def short_name(name: str, mark: int = _MARK) -> str:
    """A name as it is, up to 64 characters; of a longer one the first of those that it joins, and a `mark` of so many digits."""
    if len(name) <= LONGEST:
        return name
    first, room = name.split(_JOINED, maxsplit=1)[0], LONGEST - mark - 1
    told = first if len(first) <= room else f"{first[: room // 2 - 6]}..{first[-(room // 2 + 4) :]}"
    return f"{told}~{hashlib.sha256(name.encode()).hexdigest()[:mark]}"


def shorten_long_names(model: onnx.ModelProto) -> dict[str, str]:
    """Give nodes and inner tensors their `short_name`, in place, control-flow bodies too; the former names by the new ones.

    The graph's inputs and outputs keep theirs.
    """
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)}
    tensors, nodes = {*_tensor_names(model)} - fixed, {*_node_names(model)}
    new = _distinct({name for name in tensors | nodes if len(name) > LONGEST}, tensors | nodes | fixed)
    if new:
        kept = {old: short for old, short in new.items() if old in tensors}
        for graph in graphs(model.graph):
            _rename(graph, kept, new)
    return {short: old for old, short in new.items()}


def _distinct(long: Collection[str], taken: Collection[str]) -> dict[str, str]:
    """The short names, with marks so long that none is another's, nor one of those that there are."""
    for mark in range(_MARK, LONGEST // 2):
        new = {name: short_name(name, mark) for name in sorted(long)}
        if len({*new.values()}) == len(new) and not {*new.values()} & {*taken}:
            return new
    raise AssertionError("two names have one SHA-256")


def shorten_names(model: onnx.ModelProto, kept: Collection[str]) -> bool:
    """Give nodes and inner tensors the shortest names, in place, where that saves a hundredth of the model's bytes.

    The graph's inputs and outputs keep theirs, and what is called as one of `kept`. No new name of a node is a tensor's. One name stands for one other everywhere,
    in control-flow bodies too, so what shadowed another tensor still does. True where names changed.
    """
    fixed = {value.name for value in (*model.graph.input, *model.graph.output)} | set(kept)
    tensors, nodes = Counter(_tensor_names(model)), Counter(_node_names(model))
    new_tensors = shorter(tensors, fixed)
    apart = {
        new_tensors.get(name, name) for name in tensors
    }  # tract makes a node of every constant, by its name
    new_nodes = shorter(nodes, fixed, apart)
    saved = sum(tensors[old] * (len(old) - len(new)) for old, new in new_tensors.items())
    saved += sum(nodes[old] * (len(old) - len(new)) for old, new in new_nodes.items())
    if saved < _WORTH * _size(model):
        return False
    for graph in graphs(model.graph):
        _rename(graph, new_tensors, new_nodes)
    return True


def _size(model: onnx.ModelProto) -> int:
    """About how many bytes a model takes, whether its tensors hold theirs or not; one of any size is not serialized."""
    held = sum(raw_bytes(tensor) for tensor in model.graph.initializer)
    return held + sum(int(node.ByteSize()) for node in model.graph.node)


def shorter(
    names: Mapping[str, int], fixed: Collection[str], apart: Collection[str] = frozenset()
) -> dict[str, str]:
    """The shortest names for the most frequent ones, none of which is used already; those in `fixed` have none.

    What is called as one of `apart` gets another name, were it no shorter.
    """
    free = (text for text in _numbers() if text not in names and text not in fixed and text not in apart)
    ordered = sorted(
        (name for name in names if name and name not in fixed), key=lambda name: (-names[name], name)
    )
    found = zip(ordered, free, strict=False)
    return {old: new for old, new in found if old in apart or len(new) < len(old.encode())}


def _numbers() -> Iterator[str]:
    """0, 1, ..., z, 00, ..."""
    for length in count(1):
        yield from map("".join, product(_DIGITS, repeat=length))


def _node_names(model: onnx.ModelProto) -> Iterator[str]:
    return (node.name for graph in graphs(model.graph) for node in graph.node)


def _tensor_names(model: onnx.ModelProto) -> Iterator[str]:
    """Every mention of a tensor."""
    for graph in graphs(model.graph):
        for node in graph.node:
            yield from (*node.input, *node.output)
        for named in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
            yield named.name
        yield from (sparse.values.name for sparse in graph.sparse_initializer)


def _rename(graph: onnx.GraphProto, tensors: Mapping[str, str], nodes: Mapping[str, str]) -> None:
    """The names of one graph, without the bodies in it."""
    for node in graph.node:
        node.name = nodes.get(node.name, node.name)
        node.input[:] = [tensors.get(name, name) for name in node.input]
        node.output[:] = [tensors.get(name, name) for name in node.output]
    for named in (*graph.initializer, *graph.value_info, *graph.input, *graph.output):
        named.name = tensors.get(named.name, named.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = tensors.get(sparse.values.name, sparse.values.name)
    for annotation in graph.quantization_annotation:
        annotation.tensor_name = tensors.get(annotation.tensor_name, annotation.tensor_name)
        for entry in annotation.quant_parameter_tensor_names:
            entry.value = tensors.get(entry.value, entry.value)
