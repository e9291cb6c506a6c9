from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxmpq.data import DataSource
from onnxmpq.data.evidence import Evidence, gather
from onnxmpq.data.preprocess import Preprocess
from onnxmpq.errors import DataError, OptionError
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.testing import model_of

X = np.random.default_rng(0).standard_normal((50, 3, 6, 6)).astype(np.float32)


def session(shape: str = "N, 3, H, W") -> Session:
    text = (
        f'<ir_version: 8, opset_import: ["" : 18]> g (float[{shape}] x) => (float[?] y) {{ y = Conv (x, w) }}'
    )
    return Runtime("cpu", 1).session(model_of(text, w=np.ones((4, 3, 3, 3), np.float32)))


def collect(
    data: DataSource | None = None, evaluation: DataSource | None = None, **options: Any
) -> tuple[Evidence, list[str]]:
    notes: list[str] = []
    wanted = {"shapes": {}, "samples": 40, "preprocess": None, "seed": 0, **options}
    model, asked = wanted.pop("model", None), wanted.pop("session", session())
    return gather(asked, model, data, evaluation, note=notes.append, **wanted), notes


def save(path: Path, count: int) -> Path:
    np.savez(path, x=X[:count])
    return path


def test_siblings_are_used_and_named(tmp_path: Path) -> None:
    calib, judge = save(tmp_path / "m.calib.npz", 20), save(tmp_path / "m.eval.npz", 10)
    found, notes = collect(model=tmp_path / "m.onnx")
    assert notes == [f"using {calib}", f"using {judge}"]
    assert (found.calibration.count, found.evaluation.count) == (20, 10)
    assert found.judged_on == f"10 samples of {judge}"


def test_what_is_named_goes_before_siblings(tmp_path: Path) -> None:
    save(tmp_path / "m.calib.npz", 20)
    found, notes = collect({"x": X}, {"x": X[:5]}, model=tmp_path / "m.onnx")
    assert not notes
    assert (found.calibration.count, found.evaluation.count) == (40, 5)


def test_a_fifth_is_held_back_and_disjoint() -> None:
    found, _ = collect({"x": X})
    assert (found.calibration.count, found.evaluation.count) == (40, 10)
    assert not set(found.calibration.positions) & set(found.evaluation.positions)
    assert "held back" in found.judged_on


def test_one_sample_serves_both_and_that_is_said() -> None:
    found, notes = collect({"x": X[:1]})
    assert found.calibration.count == found.evaluation.count == 1
    assert "also calibrated on" in found.judged_on
    assert "too few samples" in notes[0]


def test_noise_stands_in_and_that_is_said() -> None:
    found, notes = collect()
    assert found.calibration.synthetic
    assert found.calibration.count == 16
    assert "compiling at 1x3x224x224" in notes[0]
    assert "16 synthetic inputs stand in" in notes[1]
    assert found.sample["x"].shape == (1, 3, 224, 224)
    first = next(iter(found.calibration.batches(1))).feeds["x"]
    assert not np.array_equal(first, next(iter(found.evaluation.batches(1))).feeds["x"])


def test_noise_is_judged_on_real_data_where_there_are_some() -> None:
    found, _ = collect(None, {"x": X[:7]}, shapes={"x": (1, 3, 6, 6)})
    assert found.calibration.synthetic
    assert found.judged_on == "7 samples of the given arrays"


def test_shapes_come_from_the_data_and_batches_are_tried() -> None:
    found, notes = collect({"x": X})
    assert found.sample["x"].shape == (1, 3, 6, 6)
    assert found.batchable
    assert not notes
    fixed, _ = collect({"x": X}, session=session("1, 3, 6, 6"))
    assert not fixed.batchable


def test_preprocessing_without_images() -> None:
    with pytest.raises(OptionError, match="--preprocess is for images"):
        collect({"x": X}, preprocess=Preprocess.parse("imagenet"))


def test_what_is_read_late_is_what_is_used() -> None:
    found, _ = collect({"x": X}, {"x": X[:9]}, training={"x": X[:7]})
    assert [data.count for data in found.read_late(judged=True)] == [40, 7, 9]
    assert [data.count for data in found.read_late(judged=False)] == [40, 7]
    assert not collect()[0].read_late(judged=True)


@pytest.mark.parametrize(
    ("network", "samples", "said"),
    [
        ("y = Conv (x, w)", "bytes", True),
        ("y = Conv (x, w)", "floats", True),
        ("s = Mul (x, small)  y = Conv (s, w, b)", "bytes", False),
        ("c = Sub (x, middle)  s = Mul (c, small)  r = Conv (s, w, b)  y = Softmax <axis = 1> (r)", "bytes", False),
        ("y = Conv (x, w)", "normal", False),
        ("y = Conv (x, w)", "thousands", False),
    ],
)  # fmt: skip
def test_bytes_for_a_network_that_does_not_scale_them_are_said(
    network: str, samples: str, said: bool
) -> None:
    text = f"g (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) {{ {network} }}"
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((4, 3, 3, 3)), "b": rng.standard_normal(4),
        "middle": np.array(127.5), "small": np.array(1 / 127.5),
    }  # fmt: skip
    x = rng.integers(0, 256, (20, 3, 8, 8))
    values: Any = {
        "bytes": x.astype(np.uint8), "floats": x + rng.random(x.shape) * (x < 255),
        "normal": rng.standard_normal(x.shape), "thousands": x * 10.0,
    }[samples]  # fmt: skip
    model = model_of(text, **{n: v.astype(np.float32) for n, v in weights.items() if n in network})
    notes: list[str] = []
    gather(
        Runtime().session(model), None, {"x": values}, None, shapes={}, samples=16, preprocess=None, seed=0,
        note=notes.append,
    )  # fmt: skip
    assert any("0 to 255" in line for line in notes) == said


def test_an_array_of_another_name_is_said() -> None:
    found, notes = collect({"image": X})
    assert found.calibration.count == 40
    assert notes == ["array 'image' of the given arrays feeds the graph input 'x': there is one of each"]


def test_an_array_named_like_a_weight_is_refused(tmp_path: Path) -> None:
    model = model_of(
        '<ir_version: 8, opset_import: ["" : 18]> g (float[N, 3, H, W] x) => (float[?] y) { y = Conv (x, w) }',
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    model.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 3, 3, 3]))
    listed = Runtime("cpu", 1).session(model)
    np.savez(tmp_path / "d.npz", w=X)
    with pytest.raises(
        DataError, match=r"'w' of .*d\.npz has the name of one of the model's own weights.* 'x'"
    ):
        collect(tmp_path / "d.npz", session=listed)
    assert collect({"x": X}, session=listed)[1] == []
