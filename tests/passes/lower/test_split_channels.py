import numpy as np
import pytest

from onnxmpq.passes.lower.split_channels import ChannelGroups, SplitChannels
from onnxmpq.testing import check_pass, model_of
from onnxmpq.values.group import part_name

RNG = np.random.default_rng(0)
W, B = RNG.standard_normal((6, 3)).astype(np.float32), RNG.standard_normal(6).astype(np.float32)
MODEL = model_of("g (float[N, 3] x) => (float[N, 6] y) { y = Gemm <transB = 1> (x, w, b) }", w=W, b=B)
GROUPS = ((0, 2, 5), (1, 4), (3,))


def test_parts_are_the_channels_of_their_group() -> None:
    split = check_pass(
        SplitChannels({n: ChannelGroups(0, GROUPS) for n in ("w", "b")}), MODEL, decibels=np.inf
    )
    found = {i.name: i for i in split.graph.initializer}
    for i, group in enumerate(GROUPS):
        for name, values in (("w", W), ("b", B)):
            np.testing.assert_array_equal(
                np.frombuffer(found[part_name(name, i)].raw_data, np.float32).reshape(-1, *values.shape[1:]),
                values[list(group)],
            )


def test_any_axis_and_many_channels() -> None:
    model = model_of(
        "g (float[N, 2] x) => (float[N, 300] y) { y = MatMul (x, w) }",
        w=RNG.standard_normal((2, 300)).astype(np.float32),
    )
    order = tuple(RNG.permutation(300).tolist())
    split = check_pass(SplitChannels({"w": ChannelGroups(1, (order[:70], order[70:]))}), model)
    assert any(i.data_type == 4 for i in split.graph.initializer)  # uint16


@pytest.mark.parametrize("name", ["nowhere", "x"])
def test_no_constant_of_that_name(name: str) -> None:
    assert len(check_pass(SplitChannels({name: ChannelGroups(0, GROUPS)}), MODEL).graph.node) == 1
