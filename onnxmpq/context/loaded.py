"""What is compiled, and on what data."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from onnxmpq.data.evidence import Evidence
from onnxmpq.observer import Stages
from onnxmpq.request import Request
from onnxmpq.runtime.session import Runtime, Session


@dataclass(frozen=True)
class Loaded:
    """What is compiled, on what data, and how: `request` with the activations decided.

    `model` is what the user gave, as ONNX Runtime runs it in `session`; `file_bytes` are those of the given one,
    external data included.
    """

    request: Request
    stages: Stages
    runtime: Runtime
    model: onnx.ModelProto
    session: Session
    evidence: Evidence
    file_bytes: int
