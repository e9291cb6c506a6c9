"""A network and its calibration data, loaded as a compile does before it looks at either."""

from __future__ import annotations

from networks import Network

from onnxmpq.budgets.budget import Budget
from onnxmpq.calibrate.calibrators import CALIBRATORS
from onnxmpq.context.loaded import Loaded
from onnxmpq.data import DataSource
from onnxmpq.data.evidence import gather
from onnxmpq.normalize.prepare import runnable
from onnxmpq.observer import Stages
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.request import DEFAULT_BITS, Request
from onnxmpq.rounding.candidates import ROUNDINGS
from onnxmpq.runtime.session import Runtime
from onnxmpq.sensitivity.methods import METHODS
from onnxmpq.values.effort import EFFORTS
from onnxmpq.values.target import find_target


def load(
    network: Network,
    runtime: Runtime,
    data: DataSource,
    activations: str,
    seed: int,
    samples: int,
    stages: Stages,
) -> Loaded:
    """The defaults of a compile but for these; who runs it puts rounding, budget, method and effort in their places.

    Until then the budget is one that every plan meets and that forces none.
    """
    original, session = runnable(runtime, load_model(network.model))
    evidence = gather(
        session, network.model, data, None, shapes={}, samples=samples, preprocess=network.decoding, seed=seed,
        note=stages.note,
    )  # fmt: skip
    request = Request(
        budgets=(Budget.parse("999999MB"),), keeps=(), target=find_target("ort-cpu"), widths=DEFAULT_BITS,
        activations=activations, calibrator=CALIBRATORS["mean_minmax_3sigma"], rounding=ROUNDINGS[0], method=METHODS["measured"],
        effort=EFFORTS["balanced"], metric=None, provider=runtime.provider, seed=seed, verify=False, force=True,
    )  # fmt: skip
    return Loaded(request, stages, runtime, original, session, evidence, 0)
