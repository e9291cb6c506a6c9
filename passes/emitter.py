"""What passes that add to a graph write with: nodes, constants and shapes of one graph."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from onnxmpq.passes.matching import NoMatch, is_constant, read, require
from onnxmpq.passes.node_builder import NodeBuilder

Sizes = tuple[int | None, ...]
Shapes = Mapping[str, Sequence[int | None]]

_PREDICATES = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "And", "Or", "Not"})
_INTEGERS = frozenset({"Shape", "Size", "NonZero"})


@dataclass(frozen=True, slots=True)
class Emitter:
    """Writes nodes into one graph; what it has written once it gives again instead of writing it twice.

    `shapes` are the sizes of the graph's tensors as far as they are known, None for a size that differs between
    runs; `dtypes` are their float types. Every tensor that it makes knows its dtype, so that constants beside it
    have the same.
    """

    builder: NodeBuilder
    shapes: Shapes = field(default_factory=dict)
    dtypes: Mapping[str, np.dtype[Any]] = field(default_factory=dict)
    _written: dict[tuple[Any, ...], gs.Variable] = field(default_factory=dict)
    _constants: dict[tuple[Any, ...], gs.Constant] = field(default_factory=dict)

    def __call__(self, op: str, *operands: gs.Tensor | float, **attrs: Any) -> gs.Variable:
        """The output of a node of `op`; a number becomes a scalar constant of the other operands' dtype."""
        dtype = self._dtype([t for t in operands if isinstance(t, gs.Tensor)])
        inputs = [t if isinstance(t, gs.Tensor) else self.constant(np.array(t, dtype)) for t in operands]
        key = (op, *map(id, inputs), repr(sorted(attrs.items())))
        if key not in self._written:
            made = self.builder.node(op, inputs, "gradient", attrs)
            made.dtype = _result(op, attrs, dtype)
            self._written[key] = made
        return self._written[key]

    def pair(self, op: str, *operands: gs.Tensor | float, **attrs: Any) -> tuple[gs.Variable, gs.Variable]:
        """The two outputs of a node of `op`, the second int64."""
        outputs = self(op, *operands, **attrs).inputs[0].outputs
        if len(outputs) == 1:
            outputs.append(gs.Variable(self.builder.name("gradient"), np.int64))
        return outputs[0], outputs[1]

    def constant(self, values: NDArray[Any]) -> gs.Constant:
        """A constant of these values."""
        key = (values.dtype.str, values.shape, hashlib.blake2b(values.tobytes()).digest())
        if key not in self._constants:
            self._constants[key] = self.builder.constant("gradient_constant", values)
        return self._constants[key]

    def ints(self, values: Sequence[int]) -> gs.Constant:
        """A constant int64 vector: axes, bounds, shapes."""
        return self.constant(np.array(values, np.int64))

    def known(self, tensor: gs.Tensor) -> Sizes | None:
        """The shape of a tensor as far as it is known, None where not even its rank is."""
        if is_constant(tensor):
            return tuple(int(size) for size in tensor.shape)
        if tensor.name in self.shapes:
            return tuple(self.shapes[tensor.name])
        if tensor.shape is None:
            return None
        return tuple(size if isinstance(size, int) and size >= 0 else None for size in tensor.shape)

    def shape(self, tensor: gs.Tensor) -> Sizes:
        """The shape of a tensor; NoMatch where its rank is not known."""
        known = self.known(tensor)
        if known is None:
            raise NoMatch(f"the shape of {tensor.name!r} is not known; give it with `shapes`")
        return known

    def rank(self, tensor: gs.Tensor) -> int:
        """The number of dimensions; NoMatch where it is not known."""
        return len(self.shape(tensor))

    def sizes(self, tensor: gs.Tensor, axes: Sequence[int]) -> tuple[int, ...]:
        """The sizes along some axes; NoMatch where one is not known."""
        shape = self.shape(tensor)
        sizes = tuple(size for size in (shape[axis] for axis in axes) if size is not None)
        require(len(sizes) == len(axes), f"{tensor.name!r} of shape {list(shape)} is of free size there")
        return sizes

    def spatial(self, tensor: gs.Tensor) -> tuple[int, ...]:
        """The sizes behind batch and channels; NoMatch where one is not known."""
        return self.sizes(tensor, range(2, self.rank(tensor)))

    def sum(self, tensor: gs.Tensor, axes: Sequence[int], *, keep: bool = True) -> gs.Tensor:
        """The sum over some axes."""
        return self("ReduceSum", tensor, self.ints(axes), keepdims=int(keep)) if axes else tensor

    def mean(self, tensor: gs.Tensor, axes: Sequence[int]) -> gs.Variable:
        """The mean over some axes, which are kept with size 1."""
        if self.builder.graph.opset >= 18:
            return self("ReduceMean", tensor, self.ints(axes), keepdims=1)
        return self("ReduceMean", tensor, axes=list(axes), keepdims=1)

    def shape_of(self, tensor: gs.Tensor) -> gs.Tensor:
        """The shape as an int64 vector: constant where known (-1 for one free size), else found in the run."""
        known = self.known(tensor)
        if known is None or known.count(None) > 1 or 0 in known:
            return self("Shape", tensor)
        return self.ints([-1 if size is None else size for size in known])

    def reshape_like(self, tensor: gs.Tensor, like: gs.Tensor) -> gs.Variable:
        """The same values in the shape of `like`."""
        return self("Reshape", tensor, self.shape_of(like))

    def expand_like(self, tensor: gs.Tensor, like: gs.Tensor, axes: Sequence[int] | None) -> gs.Variable:
        """Repeated along `axes` (None: all), where it has size 1 or is one value, to the sizes of `like`."""
        known = self.known(like)
        repeated = range(len(known or ())) if axes is None else axes
        if known is None or any(known[axis] is None for axis in repeated):
            return self("Expand", tensor, self("Shape", like))
        wanted = {axis % len(known) for axis in repeated}
        return self(
            "Expand", tensor, self.ints([(s or 0) if i in wanted else 1 for i, s in enumerate(known)])
        )

    def filled(self, value: float, like: gs.Tensor, typed: gs.Tensor) -> gs.Variable:
        """One value in the shape of `like` and the type of `typed`."""
        return self.expand_like(self.cast_like(self.constant(np.array(value, np.float32)), typed), like, None)

    def unbroadcast(self, tensor: gs.Tensor, broadcast: gs.Tensor, source: gs.Tensor) -> gs.Tensor:
        """A tensor of the shape of `broadcast`, summed to the shape of `source`, which was broadcast to it."""
        whole, part = self.known(broadcast), self.known(source)
        if whole is None or part is None or not self._comparable(broadcast, source):
            return self._unbroadcast_in_run(tensor, source)
        lead = len(whole) - len(part)
        axes = [i for i, size in enumerate(part, lead) if size == 1 and whole[i] != 1]
        summed = self.sum(tensor, axes)
        return self.sum(summed, list(range(lead)), keep=False)

    def _comparable(self, *tensors: gs.Tensor) -> bool:
        """True where sizes that are not known can only be equal: those that vary from run to run all alike."""
        return all(t.name in self.shapes or None not in (self.known(t) or ()) for t in tensors)

    def _unbroadcast_in_run(self, tensor: gs.Tensor, source: gs.Tensor) -> gs.Variable:
        """Sums over every axis along which `source` has size 1 or which it lacks, both read off in the run."""
        wanted, given = self("Shape", source), self("Shape", tensor)
        lacking = self("Sub", self("Shape", given), self("Shape", wanted))
        ones = self("Expand", self.ints([1]), lacking)
        single = self("Equal", self("Concat", ones, wanted, axis=0), self.ints([1]))
        axes = self("Reshape", self("NonZero", single), self.ints([-1]))
        return self("Reshape", self("ReduceSum", tensor, axes, keepdims=1, noop_with_empty_axes=1), wanted)

    def transposed(self, tensor: gs.Tensor, perm: Sequence[int]) -> gs.Tensor:
        """The axes in another order; a constant is turned here and not in the run."""
        if is_constant(tensor):
            return self.constant(read(tensor).transpose(perm))
        return self("Transpose", tensor, perm=list(perm))

    def padded(self, tensor: gs.Tensor, begin: Sequence[int], end: Sequence[int]) -> gs.Tensor:
        """Zeros added, or where negative values taken away, at the begin and end of every axis."""
        if not any((*begin, *end)):
            return tensor
        return self("Pad", tensor, self.ints([*begin, *end]))

    def cast_like(self, tensor: gs.Tensor, like: gs.Tensor) -> gs.Variable:
        """In the float type of `like`."""
        dtype = self._dtype([like])
        return self("Cast", tensor, to=int(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def _dtype(self, tensors: Sequence[gs.Tensor]) -> np.dtype[Any]:
        """The float type among some tensors, else the type of the first: what they compute together."""
        types = [self.dtypes.get(t.name, t.dtype) for t in tensors]
        known: list[np.dtype[Any]] = [np.dtype(t) for t in types if t is not None and not isinstance(t, int)]
        floats = [dtype for dtype in known if dtype.kind == "f"]
        return (floats or known or [np.dtype(np.float32)])[0]


def _result(op: str, attrs: Mapping[str, Any], dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The type that an operator makes of operands of `dtype`."""
    if op == "Cast":
        return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(attrs["to"]))
    if op == "ConstantOfShape":
        filled: np.dtype[Any] = np.dtype(attrs["value"].dtype)
        return filled
    if op in _PREDICATES:
        return np.dtype(np.bool_)
    return np.dtype(np.int64) if op in _INTEGERS else dtype
