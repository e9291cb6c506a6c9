"""normalize: the model as a clean float graph, which the budgets and the data fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from onnxmpq.budgets.budget import Budget, tightest
from onnxmpq.budgets.kind import Needs
from onnxmpq.context.prepared import Prepared
from onnxmpq.context.setting import Loaded
from onnxmpq.data.find_padding import find_padding
from onnxmpq.errors import OptionError
from onnxmpq.metrics.metric import classifier_output
from onnxmpq.metrics.output_kinds import Seen, is_guessed
from onnxmpq.metrics.score import check_label_range, check_labels, check_numbers, glance, sureness
from onnxmpq.normalize.prepare import LOWEST_OPSET, highest_opset, prepare
from onnxmpq.sensitivity.methods import check_data, ignores_training, is_demanding
from onnxmpq.values.output_kind import OutputKind

_FAMILIAR = 0.99  # mean probability of the class taken; on test images of CIFAR-10 ResNets have 0.97


def prepare_model(loaded: Loaded) -> Prepared:
    """Normalise the model and find its layers.

    Raises OptionError or DataError where a budget or the labels do not fit its function.
    """
    evidence, request = loaded.evidence, loaded.request
    seen = glance(loaded.session, evidence.calibration, 1, request.search.seed)
    if not request.run.force:
        check_numbers(seen, evidence.calibration.description)
    padding = find_padding(loaded.session.inputs, evidence.calibration, request.search.seed)
    if padding is not None:
        loaded.stages.note(
            f"positions where {padding.mask!r} is {padding.padded} are padding: they count neither in what is learned of a layer's "
            "inputs nor in losses"
        )
    labelled = evidence.evaluation.has_labels or evidence.calibration.has_labels
    prepared = prepare(
        loaded.runtime, loaded.model, evidence.sample,
        integer=request.activation_bits is not None, batchable=evidence.batchable, metric=request.search.metric,
        samples=evidence.samples_a_run, seen=seen, outputs=request.search.outputs, labelled=labelled,
        padding=padding,
    )  # fmt: skip
    check_function(loaded, prepared)
    if not labelled:
        for text in guesses(prepared, seen, request.search.outputs):
            loaded.stages.note(text)
    return prepared


def within_kernels(loaded: Loaded, prepared: Prepared) -> Loaded:
    """The same for files of no higher opset than ONNX Runtime has a kernel for every node at; what that costs is said."""
    target = loaded.request.target
    opset, why = highest_opset(loaded.runtime, prepared.model, target.opsets[1])
    fitted = target.within(max(opset, LOWEST_OPSET))
    if fitted.weights != target.weights:
        gone = [f"INT{bits}" for bits in target.weights.tensor_bits if bits not in fitted.weights.tensor_bits]
        loaded.stages.note(
            f"the file stays at opset {opset} or below, without {' and '.join(gone)} tensors, which came later: above it the "
            f"model does not run ({why})"
        )
    return replace(loaded, request=replace(loaded.request, target=fitted))


def guesses(prepared: Prepared, seen: Seen, asked: Mapping[str, OutputKind]) -> Iterator[str]:
    """What nothing but its shape tells of an output, and how to say otherwise."""
    for name, kind in prepared.metric.kinds.items():
        if name not in asked and kind is OutputKind.LOGITS and is_guessed(prepared.model, name, seen[name]):
            yield (
                f"output {name!r} is {'x'.join(map(str, seen[name][0].shape))} and has no Softmax: it is taken for the "
                f"logits of classes; if it is not, say --outputs {name}=embedding or {name}=values"
            )


def check_function(loaded: Loaded, prepared: Prepared) -> None:
    """Raise where a budget asks for what the model has not, or the data do not fit the model's classes."""
    request, evidence = loaded.request, loaded.evidence
    drop = tightest(request.constraints.budgets, Needs.LOSS)
    if drop is not None and classifier_output(prepared.metric) is None:
        raise OptionError(f"budget {drop} limits the loss of top-1 classes, but this model is no classifier")
    check_data(request.search.method, prepared.metric, evidence.calibration, evidence.training)
    if evidence.training is not None and ignores_training(request.search.method):
        loaded.stages.note("--train-data is for methods that train, such as limpq; this one takes none of it")
    seed = request.search.seed
    shapes = {name: prepared.traced[name].shape for name in prepared.metric.kinds}
    for data in (evidence.evaluation, evidence.calibration, evidence.training):
        if data is not None:
            if not request.run.force or is_demanding(request.search.method):
                check_label_range(data, shapes, prepared.metric)
            if not request.run.force:
                check_labels(loaded.session, data, prepared.metric, prepared.batch_size, seed)
    if drop is not None:
        warn_of_familiar(loaded, prepared, drop)


def warn_of_familiar(loaded: Loaded, prepared: Prepared, drop: Budget) -> None:
    """Say where a loss budget is judged by samples that the network is too sure of to tell what others will lose."""
    data = loaded.evidence.calibration
    sure = sureness(loaded.session, data, prepared.metric, prepared.batch_size, loaded.request.search.seed)
    if sure > _FAMILIAR:
        loaded.stages.note(
            f"the fp32 model is {sure:.1%} sure of its classes in {data.description}, as models are of what they were trained on; "
            f"if these are from the training, more classes may change on new samples than {drop} allows: give others (--data)"
        )
