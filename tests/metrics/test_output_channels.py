import numpy as np
import onnx

from onnxmpq.metrics.output_channels import FLOOR, output_channels
from onnxmpq.values.channels import Channels
from onnxmpq.values.output_kind import OutputKind

RNG = np.random.default_rng(0)
HEAD = onnx.parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 13]>
    g (float[n, 4, 9] b, float[n, 8, 9] s) => (float[n, 12, 9] y) { p = Sigmoid (s) y = Concat <axis = 1> (b, p) }"""
)
PLAIN = onnx.parser.parse_model(
    '<ir_version: 8, opset_import: ["" : 13]> g (float[n, 12, 9] x) => (float[n, 12, 9] y) { y = Relu (x) }'
)
SIZES = {"b": (1, 4, 9), "p": (1, 8, 9), "y": (1, 12, 9)}


def groups(values: np.ndarray, model: onnx.ModelProto = HEAD) -> Channels:
    return output_channels(model, {"y": OutputKind.VALUES}, {"y": [values]}, SIZES)["y"]


def head(boxes: float, scores: float) -> np.ndarray:
    return np.concatenate(
        [boxes * RNG.standard_normal((2, 4, 9)), scores * RNG.uniform(0, 1, (2, 8, 9))], axis=1
    )


def test_boxes_and_scores_are_two_groups() -> None:
    found = groups(head(300, 0.5))
    assert found.groups == (tuple(range(4, 12)), tuple(range(4)))
    assert (found.axis, found.floors) == (1, (FLOOR, 0.0))
    assert [found.name(i) for i in (0, 1)] == ["channels 4 to 11", "channels 0 to 3"]


def test_values_of_two_scales_are_two_groups() -> None:
    values = head(300, 0.5)
    assert groups(values, PLAIN).groups == groups(values).groups
    assert groups(values, PLAIN).floors == (0.0, 0.0)


def test_channels_may_lie_along_the_last_axis() -> None:
    found = groups(head(300, 0.5).transpose(0, 2, 1), PLAIN)
    assert (found.axis, len(found.groups)) == (2, 2)


def test_scores_of_classes_that_never_come_are_no_group_of_their_own() -> None:
    values = head(300, 0.5)
    values[:, 8:] *= 1e-7
    assert groups(values).groups == (tuple(range(4, 12)), tuple(range(4)))


def test_alike_and_dead_channels_are_one_group() -> None:
    values = RNG.standard_normal((2, 12, 9))
    values[:, 3] = 0
    found = groups(values, PLAIN)
    assert found == Channels()


def test_a_sigmoids_map_has_a_floor() -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 13]> g (float[n, 3] x) => (float[n, 3] y) { y = Sigmoid (x) }'
    )
    found = output_channels(model, {"y": OutputKind.HEATMAP}, {"y": [np.full((1, 1, 4, 4), 1e-7)]}, {})
    assert found == {"y": Channels((FLOOR,))}


def test_distributions_have_no_groups() -> None:
    assert output_channels(HEAD, {"y": OutputKind.LOGITS}, {"y": [np.ones((2, 3))]}, {}) == {}


def test_sums_are_of_each_group() -> None:
    channels = Channels((0.0, 0.5), ((0, 2), (1,)), 1)
    values = np.array([[[1.0, 1.0], [2.0, 2.0], [3.0, 3.0]]])
    np.testing.assert_allclose(channels.squares(values), [20, 8])
    np.testing.assert_allclose(channels.least(values), [0, 0.5])
    np.testing.assert_allclose(Channels((0.5,)).least(values), [1.5])


def test_a_lone_weak_channel_among_many_is_no_group_and_directions_have_none() -> None:
    values = RNG.standard_normal((2, 64, 9))
    values[:, 7] *= 1e-4
    assert output_channels(PLAIN, {"y": OutputKind.VALUES}, {"y": [values]}, {}) == {"y": Channels()}
    values[:, :32] *= 1e-3
    kinds = {"y": OutputKind.EMBEDDING}
    assert output_channels(PLAIN, kinds, {"y": [values]}, {}) == {"y": Channels()}
    assert len(output_channels(PLAIN, {"y": OutputKind.VALUES}, {"y": [values]}, {})["y"].groups) == 2
