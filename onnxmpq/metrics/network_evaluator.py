"""The loss of the whole network under a plan, without writing it: float arithmetic on the weights that would ship."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import onnx
from onnx import numpy_helper

from onnxmpq.data import Dataset
from onnxmpq.metrics.metric import Metric
from onnxmpq.metrics.reference_outputs import Expected
from onnxmpq.metrics.score import mean_loss
from onnxmpq.runtime.session import Runtime
from onnxmpq.values.arrays import Array


class NetworkEvaluator:
    """A network whose constants are replaced, compared with the float one."""

    def __init__(
        self,
        runtime: Runtime,
        model: onnx.ModelProto,
        network: onnx.ModelProto,
        metric: Metric,
        batch_size: int,
    ) -> None:
        """`model` is the float network, `network` the same with Q/DQ pairs on its activations."""
        self._runtime, self._metric, self._batch_size = runtime, metric, batch_size
        self._reference = runtime.session(model, spin=False)
        self._network = onnx.ModelProto()
        self._network.CopyFrom(network)
        self._constants = {i.name: i for i in self._network.graph.initializer}

    def expected(self, data: Dataset) -> Expected:
        """What the float network gives for such data, to be asked for many losses."""
        return Expected(self._reference, data, self._batch_size, metric=self._metric)

    def losses(self, constants: Mapping[str, Array], expected: Iterable[Expected]) -> Iterator[float]:
        """The metric's loss on each, measured when it is asked for, with these constants in place, by name; all others stay as they were last."""
        for name, value in constants.items():
            self._constants[name].CopyFrom(numpy_helper.from_array(value, name))
        session = self._runtime.session(self._network, spin=False, simulated=True)
        return (mean_loss(some, session, self._metric) for some in expected)
