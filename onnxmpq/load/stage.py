"""load: the model, the runtime it runs on, and the data."""

from __future__ import annotations

import onnx

from onnxmpq.context.setting import Loaded
from onnxmpq.data.evidence import gather
from onnxmpq.data.levels import matching_levels
from onnxmpq.errors import ModelError
from onnxmpq.normalize.prepare import runnable
from onnxmpq.observer import Stages
from onnxmpq.onnx_io.contents import initializers_listed_as_inputs
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.onnx_io.output_file import require_apart, require_writable
from onnxmpq.request import Request, Sources
from onnxmpq.runtime.requirements import suited
from onnxmpq.runtime.session import Runtime, resolve_runtime
from onnxmpq.runtime.workers import HERE, Workers

_KERNEL_BITS = 8  # of activations at least: narrower pairs become kernels that ONNX Runtime then refuses


def load(sources: Sources, request: Request, stages: Stages, workers: Workers = HERE) -> Loaded:
    """Raises a subclass of OnnxmpqError where something cannot be read or run, or the output not be written."""
    runtime = resolve_runtime(request.run.provider)
    stages.note(f"running on ONNX Runtime's {runtime.provider.upper()} execution provider")
    given = read_model(sources, runtime, stages)
    runtime = suited(runtime, given)
    model, session = runnable(runtime, given)
    evidence = gather(
        session, sources.model, sources.data, sources.evaluation,
        training=sources.training, shapes=sources.shapes, samples=sources.samples, preprocess=sources.preprocess,
        seed=request.search.seed, note=stages.note,
        levels=lambda specs: matching_levels(runtime, model, specs, request.search.seed),
    )  # fmt: skip
    if request.target.provider != runtime.provider:
        stages.note(
            f"accuracy, kernels and speed are those of ONNX Runtime's {runtime.provider.upper()} provider here; the file "
            f"is for {request.target.note}"
        )
    for data in evidence.read_late(judged=request.run.verify):
        data.check()
    decided = request.decided(synthetic=evidence.calibration.synthetic)
    runtime = computing(runtime, decided, stages)
    return Loaded(decided, stages, runtime, model, session, evidence, given.ByteSize(), workers)


def computing(runtime: Runtime, request: Request, stages: Stages) -> Runtime:
    """The runtime as the files of this request need it."""
    if request.activation_bits is None or request.activation_bits >= _KERNEL_BITS:
        return runtime
    stages.note(
        f"ONNX Runtime has no kernels for {request.activation_bits}-bit activations: it loads such files at "
        "basic graph optimizations only, and computes in float between the rounded tensors"
    )
    return runtime.keeping_pairs()


def read_model(sources: Sources, runtime: Runtime, stages: Stages) -> onnx.ModelProto:
    """The model that is to be compiled, once it is sure that the result can be written."""
    model = load_model(sources.model, runtime.accepts)
    if model.producer_name == "onnxmpq":
        raise ModelError(
            f"{sources.model} was compiled by onnxmpq already; compile the model it was made from"
        )
    written = [path for path in (sources.output, sources.sensitivity, sources.plan) if path is not None]
    require_apart(*written)
    for path in written:
        require_writable(path, sources.protected)  # rather now than after the work
    listed = initializers_listed_as_inputs(model)
    if listed:
        stages.note(
            f"{len(listed)} initializers are listed as graph inputs; in the written file they are not"
        )
    return model
