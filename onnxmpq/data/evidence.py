"""The data of one compile: what is calibrated on, what the verdict is measured on, and one sample."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxmpq.data import Dataset, DataSource, byte_values, holds_images, open_data, synthetic_data
from onnxmpq.data.input_shapes import apply_shapes, at_sizes, guess_shapes, is_batchable
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.data.samples import dims
from onnxmpq.data.synthetic import LEVELS, Levels
from onnxmpq.errors import DataError, OptionError
from onnxmpq.runtime.session import InputSpec, Session
from onnxmpq.values.arrays import Array, Shape

SYNTHETIC_SAMPLES = 16
HELD_BACK = 0.2  # of --data, where there is no --eval

Note = Callable[[str], None]


@dataclass(frozen=True)
class Evidence:
    """`calibration` chooses, `evaluation` only judges; `sample` is one sample's feeds.

    Where the graph demands several samples at a time, `sample` holds `samples_a_run` of them (else 1). `training` is
    what methods that train were given besides (None: they train on what they measure on); `judged_on` says in words
    what the verdict rests on; `batchable` whether samples may be run together.
    """

    calibration: Dataset
    evaluation: Dataset
    judged_on: str
    sample: Mapping[str, Array]
    batchable: bool
    samples_a_run: int = 1
    training: Dataset | None = None

    def read_late(self, *, judged: bool) -> tuple[Dataset, ...]:
        """The real data, of which a stage far behind may be the first to read some; the last of them only where it judges."""
        used = [self.calibration, *filter(None, [self.training]), *([self.evaluation] if judged else [])]
        return tuple(data for data in used if not data.synthetic)


def gather(
    session: Session,
    model: Path | None,
    data: DataSource | None,
    evaluation: DataSource | None,
    *,
    training: DataSource | None = None,
    shapes: Mapping[str, Shape],
    samples: int,
    preprocess: Preprocess | None,
    seed: int,
    note: Note,
    levels: Callable[[Sequence[InputSpec]], Levels] = lambda _: LEVELS[0],
) -> Evidence:
    """Open the data, the model's siblings `MODEL.calib.npz` and `MODEL.eval.npz` where none are named.

    Without any, noise on such `levels` stands in for them and a note says what that means. Raises DataError for data that do
    not fit, ModelError where no input size runs, OptionError for steps for images where there are none.
    """
    asked = apply_shapes(session.inputs, shapes)
    data = data if data is not None else sibling(model, "calib", note)
    evaluation = evaluation if evaluation is not None else sibling(model, "eval", note)
    sources = (data, evaluation, training)
    if preprocess is not None and not any(s is not None and holds_images(s) for s in sources):
        raise OptionError(
            "--preprocess is for images, and none of --data, --eval and --train-data holds any; leave it out"
        )

    def read(source: DataSource, count: int | None) -> Dataset:
        steps = preprocess if holds_images(source) else None
        opened = open_data(source, asked, samples=count, preprocess=steps, seed=seed)
        check_names(opened, session, note)
        for line in opened.source.notes:
            note(line)
        return opened

    specs = resolved(session, asked, seed, note) if data is None else asked
    judge = None if evaluation is None else read(evaluation, None)
    if data is None:
        calibration, judge, judged_on = _synthetic(specs, judge, levels(specs), seed, note)
    elif judge is not None:
        calibration, judged_on = read(data, samples), judge.description
    else:
        everything = read(data, math.ceil(samples / (1 - HELD_BACK)))
        calibration, judge, judged_on = _held_back(everything, seed, note)
    first = next(iter(calibration.batches(1)))
    if said := byte_values.remark(session, calibration):
        note(said)
    batchable = is_batchable(session, [at_sizes(spec, first.feeds[spec.name].shape) for spec in specs], seed)
    found = Evidence(calibration, judge, judged_on, first.feeds, batchable, first.count)
    return found if training is None else replace(found, training=read(training, None))


def _held_back(everything: Dataset, seed: int, note: Note) -> tuple[Dataset, Dataset, str]:
    """What is calibrated on, what is held back from it for the verdict, and the latter in words."""
    if not everything.divides:
        note("too few samples to hold any back: the verdict rests on what the widths were chosen by")
        return everything, everything, f"{everything.description}, also calibrated on"
    calibration, judge = everything.split(HELD_BACK, seed)
    return calibration, judge, f"{judge.description}, held back from calibration"


def check_names(data: Dataset, session: Session, note: Note) -> None:
    """Say which array feeds an input of another name; DataError where that is the name of an initializer."""
    for spec, array in data.source.fed.items():
        if array in session.defaults:
            raise DataError(
                f"array {array!r} of {data.source.name} has the name of one of the model's own weights, not of its "
                f"input {spec!r}; save the samples as {spec!r}"
            )
        if array != spec:
            note(
                f"array {array!r} of {data.source.name} feeds the graph input {spec!r}: there is one of each"
            )


def resolved(session: Session, specs: Sequence[InputSpec], seed: int, note: Note) -> tuple[InputSpec, ...]:
    """Sizes for all free dimensions besides the batch, guessed where need be, and said."""
    guessed = guess_shapes(session, specs, seed)
    for before, after in zip(specs, guessed, strict=True):
        if before.shape != after.shape:
            size = dims(after.shape, "1")
            note(f"input {after.name!r} has free dimensions; compiling at {size} (--shape sets them)")
    return guessed


def sibling(model: Path | None, role: str, note: Note) -> Path | None:
    """`MODEL.<role>.npz` beside `MODEL.onnx`, if it is there."""
    path = model.with_name(f"{model.stem}.{role}.npz") if model is not None else None
    if path is None or not path.is_file():
        return None
    note(f"using {path}")
    return path


def _synthetic(
    specs: Sequence[InputSpec], judge: Dataset | None, levels: Levels, seed: int, note: Note
) -> tuple[Dataset, Dataset, str]:
    note(
        f"no calibration data: {SYNTHETIC_SAMPLES} synthetic inputs stand in for them. Widths are chosen by how "
        "noise passes through the network; give --data for a file whose accuracy you can trust"
    )
    if levels is not LEVELS[0]:
        note(f"images of noise are on the levels {levels.words}, which fit the network best")
    calibration = synthetic_data(specs, samples=SYNTHETIC_SAMPLES, seed=seed, levels=levels)
    if judge is not None:
        return calibration, judge, judge.description
    judge = synthetic_data(specs, samples=SYNTHETIC_SAMPLES, seed=seed + 1, levels=levels)
    return calibration, judge, f"{judge.count} other synthetic inputs"
