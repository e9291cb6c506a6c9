"""What a written file needs of its runtime."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Requirements:
    """The target and storage that a file was written for, and the least that it needs."""

    target: str
    storage: str
    opset: int
    onnxruntime: str  # the lowest version that loads the file
    optimizations: str = "all"  # the most of its graph optimizations with which it does: "all" or "basic"

    def __str__(self) -> str:
        limited = f" at {self.optimizations} graph optimizations" if self.optimizations != "all" else ""
        return f"opset {self.opset}, ONNX Runtime {self.onnxruntime}{limited}"
