"""A network and its calibration data, loaded as a compile does before it looks at either."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from networks import Network

from onnxmpq.budgets.budget import Budget
from onnxmpq.calibrate.calibrators import CALIBRATORS
from onnxmpq.context.setting import Loaded
from onnxmpq.data import DataSource
from onnxmpq.data.evidence import gather
from onnxmpq.normalize.prepare import runnable
from onnxmpq.observer import Stages
from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.request import DEFAULT_BITS, Constraints, Quantizers, Request, Run, Search
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
        constraints=Constraints(budgets=(Budget.parse("999999MB"),), widths=DEFAULT_BITS),
        quantizers=Quantizers(activations=activations, calibrator=CALIBRATORS["mean_minmax_3sigma"]),
        target=find_target("ort-cpu"),
        search=Search(method=METHODS["measured"], effort=EFFORTS["balanced"], seed=seed),
        run=Run(runtime.provider, verify=False, force=True),
    )
    return Loaded(request, stages, runtime, original, session, evidence, 0)


def changed(request: Request, **answers: Any) -> Request:
    """The request with other answers to some of its groups' questions: `rounding`, `effort`, `method`, `budgets`."""
    for group in ("constraints", "quantizers", "search"):
        own = getattr(request, group)
        mine = {name: value for name, value in answers.items() if hasattr(own, name)}
        request = replace(request, **{group: replace(own, **mine)})
    return request
