"""By which loss a model is judged, and what its outputs are taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx

from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import METRICS, Metric
from onnxmpq.metrics.output_channels import output_channels
from onnxmpq.metrics.output_kinds import Seen, is_guessed, output_kinds
from onnxmpq.plugins import is_reference, load_attribute
from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.padding import Padding


def choose_metric(
    model: onnx.ModelProto,
    seen: Seen,
    name: str | None = None,
    *,
    asked: Mapping[str, OutputKind] | None = None,
    labelled: bool = False,
    shapes: Mapping[str, Sequence[int]] | None = None,
    padding: Padding | None = None,
) -> Metric:
    """The metric for a model: softened KL if every output is one distribution a sample, else normalised squared error.

    Independent probabilities are compared by their KL as it is: of what is nearly sure `1 - p` tells too little to be
    softened. `seen` are outputs of some runs, `name` (one of METRICS, or `file.py:function`) overrides: with nse, what
    nothing but its shape calls classes is values, unless there are labels. `asked` is what the user says of outputs,
    `shapes` are the shapes of the graph's tensors, `padding` tells which positions of outputs count.

    Raises OptionError when KL is demanded of outputs that are no distributions, for a name that is none, and for
    outputs that the model has not.
    """
    kinds = output_kinds(model, seen, asked)
    if name == "nse" and not labelled:
        guessed = {n for n in kinds if n not in (asked or {}) and is_guessed(model, n, seen[n])}
        kinds = {n: OutputKind.VALUES if n in guessed else kind for n, kind in kinds.items()}
    channels = output_channels(model, kinds, seen, shapes or {})
    if name is not None and is_reference(name):
        known = _by_kinds(kinds, None)
        return replace(known, name=name, channels=channels, own=load_attribute(name), padding=padding)
    return replace(_by_kinds(kinds, name), channels=channels, padding=padding)


def _by_kinds(kinds: Mapping[str, OutputKind], name: str | None) -> Metric:
    if name not in (None, *METRICS):
        raise OptionError(
            f"metric {name!r} is not known; choose {', '.join(METRICS)}, or write file.py:function"
        )
    values = [output for output, kind in kinds.items() if not kind.is_distribution]
    if name not in (None, "nse") and (values or not kinds):
        raise OptionError(
            f"--metric {name} needs outputs of shape [N, classes]; {values} of this model are not: use --metric nse"
        )
    if name is None:
        sure = "kl" if OutputKind.INDEPENDENT in kinds.values() else "soft-kl"
        name = "nse" if values or not kinds else sure
    return Metric(name, kinds)
