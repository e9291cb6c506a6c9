"""Parts of a model, loaded."""

from __future__ import annotations

import onnx

from onnxmpq.errors import EngineError
from onnxmpq.onnx_io.subgraph import with_known_sizes
from onnxmpq.runtime.session import Runtime, Session


def part_session(
    runtime: Runtime, part: onnx.ModelProto, whole: onnx.ModelProto, *, simulated: bool = False
) -> Session:
    """A session of a part of a model, whose threads do not spin: with free sizes, or with known ones where it is refused.

    Raises EngineError where the runtime refuses both.
    """
    try:
        return runtime.session(part, spin=False, simulated=simulated)
    except EngineError:
        return runtime.session(with_known_sizes(part, whole), spin=False, simulated=simulated)
