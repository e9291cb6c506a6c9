import numpy as np
import onnx
import pytest

from onnxmpq.onnx_io.default_attributes import drop_defaults
from onnxmpq.runtime.session import Runtime
from onnxmpq.testing import model_of

TEXT = """g (float[1, 4, 9, 9] x, bool p) => (float[1, n, h, v] z) {
    a = Conv <auto_pad = "NOTSET", dilations = [1, 1], group = 1, kernel_shape = [3, 3], pads = [0, 0, 0, 0], strides = [1, 1]> (x, w)
    b = MaxPool <ceil_mode = 0, kernel_shape = [2, 2], pads = [0, 0, 0, 0], storage_order = 0, strides = [2, 2]> (a)
    l = LeakyRelu <alpha = 0.25> (b)
    z = If (p) < then_branch = s () => (float[1, n, h, v] m) { m = Softmax <axis = -1> (l) },
                 else_branch = u () => (float[1, n, h, v] m) { m = Softmax <axis = 1> (l) } > }"""


def test_what_holds_anyway_is_not_said_and_all_else_is() -> None:
    model = model_of(TEXT, w=np.ones((4, 4, 3, 3), np.float32))
    runtime = Runtime("cpu")
    feeds = {"x": np.random.default_rng(0).normal(size=(1, 4, 9, 9)).astype(np.float32)}
    before = [runtime.session(model).run({**feeds, "p": np.array(p)})["z"] for p in (True, False)]
    drop_defaults(model)
    onnx.checker.check_model(model)
    told = {node.op_type: {a.name for a in node.attribute} for node in model.graph.node}
    assert told == {
        "Conv": {"kernel_shape"},
        "MaxPool": {"kernel_shape", "strides"},
        "LeakyRelu": {"alpha"},
        "If": {"then_branch", "else_branch"},
    }
    assert [len(a.g.node[0].attribute) for a in model.graph.node[-1].attribute] == [0, 1]
    for p, expected in zip((True, False), before, strict=True):
        assert (runtime.session(model).run({**feeds, "p": np.array(p)})["z"] == expected).all()


@pytest.mark.parametrize("domain", ["com.microsoft", "someone.else"])
def test_other_domains_are_left_alone(domain: str) -> None:
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], domain=domain, group=1)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], []))
    drop_defaults(model)
    assert len(model.graph.node[0].attribute) == 1
