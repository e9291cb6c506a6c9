from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.onnx_io.model_file import load_model
from onnxmpq.onnx_io.other_encodings import readable
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

TEXT = "GRAPHNAME (float[N, 4] x) => (float[N, 2] y) { [NODENAME] y = MatMul (x, WEIGHT) }"


@pytest.fixture
def content() -> bytes:
    model = model_of(TEXT, WEIGHT=np.ones((4, 2), np.float32))
    model.doc_string, model.producer_name = "DOCUMENT", "PRODUCER"
    model.metadata_props.add(key="AUTHOR", value="SOMEBODY")
    return bytes(model.SerializeToString())


def test_names_in_utf8_stay_as_they_are(content: bytes) -> None:
    chinese = content.replace(b"NODENAME", "卷积__".encode())
    assert readable(content) is content
    assert readable(chinese) is chinese


@pytest.mark.parametrize(
    "word", ["GRAPHNAME", "NODENAME", "WEIGHT", "DOCUMENT", "PRODUCER", "AUTHOR", "SOMEBODY"]
)
@pytest.mark.parametrize("encoding", ["gbk", "shift_jis", "latin-1"])
def test_names_in_other_encodings_become_readable(
    content: bytes, tmp_path: Path, word: str, encoding: str
) -> None:
    name = "é" if encoding == "latin-1" else "学"
    other = (name.encode(encoding) * len(word))[: len(word)]
    (tmp_path / "m.onnx").write_bytes(content.replace(word.encode(), other))
    model = load_model(tmp_path / "m.onnx")
    assert word not in str(model)
    x = np.ones((3, 4), np.float32)
    np.testing.assert_array_equal(Runtime().session(model).run({"x": x})["y"], np.full((3, 2), 4))


def test_a_name_keeps_its_other_uses(content: bytes) -> None:
    model = onnx.load_from_string(readable(content.replace(b"WEIGHT", b"WEIGH\xff")))
    assert model.graph.initializer[0].name == model.graph.node[0].input[1] == "WEIGH\\xff"
