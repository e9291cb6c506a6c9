"""The only module that imports onnxruntime: providers, sessions, runs.

A `Runtime` is a value (provider and threads); a `Session` holds one loaded model.
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from onnxmpq.errors import EngineError, OptionError
from onnxmpq.runtime.ordered_pool import cores, is_confined
from onnxmpq.values.arrays import Array

VERSION = ort.__version__
Model = onnx.ModelProto | bytes | Path

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
# Floats of 24 bits, not the 11 that tensor cores make of them unasked; and kernels chosen by rule, where the default
# times all of them for every session.
_CUDA_OPTIONS = {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"}
_CUDA_TRIAL = """
import sys
import onnx.parser
import onnxruntime
onnxruntime.preload_dlls()
model = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 13]> g (float[1] x) => (float[1] y) { y = Relu (x) }'
)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=[sys.argv[1]])
sys.exit(sys.argv[1] not in session.get_providers())
"""
_SILENT = 4  # fatal only: what matters is raised, and the runtime's warnings are not the user's
# Go on where pairs are to be kept, and fail over 4 bits.
_FUSE_PAIRS = ["ClipQuantRewrite", "ReluQuantRewrite"]
# Before 1.31 it loses a tensor that gradients of networks with free sizes read.
_BROKEN = ["ReshapeFusion"] if tuple(map(int, VERSION.split(".")[:2])) < (1, 31) else []
_DTYPES = {
    "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(double)": "float64",
    "tensor(int8)": "int8", "tensor(uint8)": "uint8", "tensor(int16)": "int16", "tensor(uint16)": "uint16",
    "tensor(int32)": "int32", "tensor(uint32)": "uint32", "tensor(int64)": "int64", "tensor(uint64)": "uint64",
    "tensor(bool)": "bool",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class InputSpec:
    """A graph input; `shape` has None where a dimension is free, and is () for a scalar.

    `dtype` is object where NumPy has none for the input's `type`, which is named as ONNX does: "string", "bfloat16".
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    type: str = ""

    @property
    def takes(self) -> str:
        """What it takes, in words."""
        return self.type if self.dtype.hasobject and self.type else str(self.dtype)


class Session:
    """One model loaded into ONNX Runtime."""

    def __init__(self, session: ort.InferenceSession, provider: str) -> None:
        self._session = session
        self.provider = provider
        self.inputs = tuple(_input_spec(i) for i in session.get_inputs())
        # Initializers that are listed as inputs, too.
        self.defaults = frozenset(i.name for i in session.get_overridable_initializers())
        # The outputs' types, as `tensor(float)` or `seq(tensor(float))`.
        self.types = {o.name: str(o.type) for o in session.get_outputs()}
        self.outputs = tuple(self.types)

    def end_profile(self) -> Path:
        """Stop profiling (`Runtime.session(profile=...)`); the file that holds the events."""
        return Path(self._session.end_profiling())

    def run(self, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; feeds are contiguous arrays of the inputs' dtypes.

        Raises EngineError with the runtime's message.
        """
        names = list(self.outputs if outputs is None else outputs)
        if not names:  # of which the runtime would make all
            return {}
        try:
            values = self._session.run(names, dict(feeds))
        except Exception as error:  # the runtime's exceptions share no public root
            raise EngineError(f"ONNX Runtime failed while running the model: {_reason(error)}") from error
        return dict(zip(names, values, strict=True))


@dataclass(frozen=True, slots=True)
class Runtime:
    """Where models run: `provider` "cpu" or "cuda", `threads` 0 for as many as there are cores for us.

    `fuses` False leaves Q/DQ pairs as they are, where it would make integer kernels of them and of what lies between.
    """

    provider: str = "cpu"
    threads: int = 0
    fuses: bool = True

    def on_one_thread(self) -> Runtime:
        """The same with one thread a session: sums of products then come out the same on any machine of its kind.

        ONNX Runtime divides a product of matrices among its threads, and where it cuts them decides the order
        in which sums are added up.
        """
        return replace(self, threads=1)

    def keeping_pairs(self) -> Runtime:
        """The same with Q/DQ pairs as they are: of pairs of 4 bits it makes kernels that it then refuses."""
        return replace(self, fuses=False)

    def accepts(self, model: Model) -> bool:
        """True where a session can be made of the model: every node has a kernel, and is as that wants it."""
        try:
            self.session(model, optimize=False)
        except EngineError:
            return False
        return True

    def session(
        self,
        model: Model,
        *,
        optimize: bool = True,
        save_optimized: Path | None = None,
        profile: Path | None = None,
        spin: bool = True,
        simulated: bool = False,
    ) -> Session:
        """Load a model; `save_optimized` also writes the graph that the runtime really runs.

        `profile` is where the names of files with the times of kernels begin (see `onnxmpq.timing.kernel_times`).

        Threads of a session spin for a while after a run, ready for the next; where sessions take turns each
        one's spinning threads hold up the others', so they should not (`spin`).

        `simulated` is for Q/DQ pairs around float weights: ONNX Runtime would quantize such weights itself, to INT8 and
        one scale a tensor, before it runs the layer in integers.

        Raises EngineError with the runtime's message (which names the node) when it refuses the model.
        """
        options = self._options(spin=spin, keep_pairs=simulated or not self.fuses)
        if not optimize:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if save_optimized is not None:
            options.optimized_model_filepath = str(save_optimized)
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        try:
            source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
            session = ort.InferenceSession(
                _loadable(source) if isinstance(source, Path) else source, options, providers=self._providers(),
                disabled_optimizers=_BROKEN if self.fuses else [*_BROKEN, *_FUSE_PAIRS],
            )  # fmt: skip
        except Exception as error:
            raise EngineError(f"ONNX Runtime refuses the model: {_reason(error)}") from error
        got = session.get_providers()[0]
        if got != _PROVIDERS[self.provider]:
            raise EngineError(
                f"a session was to run on {_PROVIDERS[self.provider]}, and got {got}; onnxmpq doctor says what is missing"
            )
        return Session(session, self.provider)

    def _options(self, *, spin: bool, keep_pairs: bool) -> ort.SessionOptions:
        """What all sessions have, and whether threads wait spinning and Q/DQ pairs stay as they are."""
        options = ort.SessionOptions()
        options.log_severity_level = _SILENT
        # Left to itself ONNX Runtime puts a thread on each core of the machine, also on those that are not ours.
        # (Where a core counts as two, ours are as many threads: which of them share one is not known here.)
        options.intra_op_num_threads = self.threads or (cores() if is_confined() else 0)
        if keep_pairs:
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if not spin:
            options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        return options

    def _providers(self) -> list[str | tuple[str, dict[str, str]]]:
        """Ours and, behind CUDA, the CPU for the operators that it lacks."""
        if self.provider == "cpu":
            return [_PROVIDERS["cpu"]]
        return [(_PROVIDERS["cuda"], _CUDA_OPTIONS), _PROVIDERS["cpu"]]


def resolve_runtime(provider: str = "auto") -> Runtime:
    """The runtime for `--provider auto|cpu|cuda`: CUDA only where a session really gets it.

    Raises OptionError when "cuda" was demanded and no session gets it.
    """
    if provider not in {"auto", *_PROVIDERS}:
        raise OptionError(f"provider {provider!r} is not known; choose auto, cpu or cuda")
    if provider == "cpu" or not _cuda_works():
        if provider == "cuda":
            raise OptionError(
                "the CUDA execution provider was asked for but no session gets it; "
                "install onnxruntime-gpu with its CUDA libraries, or use --provider cpu"
            )
        return Runtime("cpu")
    return Runtime("cuda")


def find_cuda_libraries() -> None:
    """In a process that did not ask for its provider itself: load the CUDA libraries that pip installed."""
    ort.preload_dlls()


def is_built_for_cuda() -> bool:
    """True where this ONNX Runtime has the CUDA provider; whether a session gets it, that does not tell."""
    return _PROVIDERS["cuda"] in ort.get_available_providers()


def _loadable(file: Path) -> str | bytes:
    """A path as ONNX Runtime takes it; the content of a file whose path is no text, such as one in another encoding."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return file.read_bytes()
    return str(file)


def _cuda_works() -> bool:
    """True when a session on a one-node model really lands on the GPU (the list of providers does not tell).

    A process of its own tries, where there is a driver: where CUDA's libraries are missing the runtime says so at
    length, on both streams, and those of this process are also other threads'.
    """
    if not is_built_for_cuda() or cuda_driver() is None:
        return False
    command = [sys.executable, "-c", _CUDA_TRIAL, _PROVIDERS["cuda"]]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        return False
    ort.preload_dlls()  # says nothing where it finds what the trial found
    return True


def cuda_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver, None where it is not installed."""
    try:
        return ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None


def read_type(text: str) -> tuple[tuple[str, ...], np.dtype[Any]]:
    """(containers around the tensors, outermost first: "seq" or "optional"; their dtype) of a runtime's type.

    The dtype is object for strings and for what holds no tensors, such as a map.
    """
    *containers, _tensor, element = text.rstrip(")").split("(") if "tensor(" in text else ("tensor", "")
    return tuple(containers), _dtype(f"tensor({element})")


def _input_spec(node: Any) -> InputSpec:
    shape = tuple(d if isinstance(d, int) and d >= 0 else None for d in node.shape)
    return InputSpec(node.name, _dtype(node.type), shape, _type_name(node.type))


def _type_name(runtime_type: str) -> str:
    """The element type of a tensor; what else there is, as the runtime calls it: "seq(tensor(float))"."""
    inner = runtime_type.removeprefix("tensor(")
    return inner.removesuffix(")") if inner != runtime_type else runtime_type


def _dtype(runtime_type: str) -> np.dtype[Any]:
    return np.dtype(_DTYPES.get(runtime_type, "object"))


def _reason(error: Exception) -> str:
    """The runtime's message on one line, without its own prefix and source locations."""
    text = " ".join(str(error).split())
    _, _, tail = text.partition("[ONNXRuntimeError] : ")
    return (tail or text)[:600]
