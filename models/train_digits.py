"""Train the demo model on scikit-learn's digits and write it, with its data, beside this file.

    python models/train_digits.py

needs the `reference` extra (torch, scikit-learn) and takes about a minute on one core. The network is a table
of steps that is read twice: by `forward`, to train it, and by `onnx_model`, to write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch.nn import functional

HERE = Path(__file__).parent
SEED = 0
EVAL_SAMPLES = 500  # held out: neither trained on nor calibrated with
CALIB_SAMPLES = 512  # of the training images
EPOCHS, BATCH = 60, 64
LEARNING_RATE, WEIGHT_DECAY = 0.1, 5e-4
CLASSES = 10
EPSILON = 1e-5  # of every BatchNormalization
OPSET, IR_VERSION = 17, 8
NORM = ("scale", "shift", "mean", "var")  # in the order of BatchNormalization's inputs

ACTIVATIONS = {"Relu": functional.relu, "Clip": functional.relu6, "": lambda x: x}  # by ONNX operator

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Tensor = Any  # torch is imported without its types


@dataclass(frozen=True, slots=True)
class Split:
    """`image` float32 [samples, 1, 8, 8] in 0..1, `labels` int64 [samples]."""

    image: Floats
    labels: Labels


# --- the network --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution with "same" padding, BatchNorm, activation ("" for none)."""

    name: str
    source: str
    channels: int
    kernel: int = 3
    stride: int = 1
    depthwise: bool = False
    activation: str = "Relu"
    keep_norm: bool = False  # write the BatchNorm as a node of its own


@dataclass(frozen=True, slots=True)
class Join:
    """Two branches meet: "Add" them or "Concat" their channels, then the activation."""

    name: str
    sources: tuple[str, str]
    op: str
    activation: str = ""


Step = Conv | Join


def residual(name: str, source: str, channels: int) -> tuple[Step, ...]:
    """ResNet's basic block at stride 1 (He et al. 2016)."""
    return (
        Conv(f"{name}/conv1", source, channels),
        Conv(f"{name}/conv2", f"{name}/conv1", channels, activation=""),
        Join(f"{name}/add", (source, f"{name}/conv2"), "Add", "Relu"),
    )


def downsampling(name: str, source: str, channels: int) -> tuple[Step, ...]:
    """ResNet's basic block at stride 2 with a projection shortcut; its BatchNorms are kept."""
    return (
        Conv(f"{name}/conv1", source, channels, stride=2, keep_norm=True),
        Conv(f"{name}/conv2", f"{name}/conv1", channels, activation="", keep_norm=True),
        Conv(f"{name}/shortcut", source, channels, kernel=1, stride=2, activation="", keep_norm=True),
        Join(f"{name}/add", (f"{name}/shortcut", f"{name}/conv2"), "Add", "Relu"),
    )


def inverted(name: str, source: str, width: int, channels: int, stride: int = 1) -> tuple[Step, ...]:
    """MobileNetV2's inverted residual (Sandler et al. 2018): expand to `width`, filter, project."""
    steps: tuple[Step, ...] = (
        Conv(f"{name}/expand", source, width, kernel=1, activation="Clip"),
        Conv(f"{name}/depthwise", f"{name}/expand", width, stride=stride, depthwise=True, activation="Clip"),
        Conv(f"{name}/project", f"{name}/depthwise", channels, kernel=1, activation=""),
    )
    return steps if stride > 1 else (*steps, Join(f"{name}/add", (source, f"{name}/project"), "Add"))


def fire(name: str, source: str, squeeze: int, expand: int) -> tuple[Step, ...]:
    """SqueezeNet's Fire module (Iandola et al. 2016): `squeeze` channels, then `expand` by 1x1 and by 3x3."""
    return (
        Conv(f"{name}/squeeze", source, squeeze, kernel=1),
        Conv(f"{name}/expand1x1", f"{name}/squeeze", expand, kernel=1),
        Conv(f"{name}/expand3x3", f"{name}/squeeze", expand),
        Join(f"{name}/concat", (f"{name}/expand1x1", f"{name}/expand3x3"), "Concat"),
    )


NETWORK: tuple[Step, ...] = (
    Conv("stem", "image", 24),  # 8x8
    *residual("stage1/block1", "stem", 24),
    *inverted("stage2/block1", "stage1/block1/add", 96, 40, stride=2),  # 4x4
    *inverted("stage2/block2", "stage2/block1/project", 160, 40),
    *fire("stage2/fire", "stage2/block2/add", 16, 24),
    *downsampling("stage3/block1", "stage2/fire/concat", 48),  # 2x2
)


def channels() -> dict[str, int]:
    """Number of channels that each step yields."""
    count = {"image": 1}
    for step in NETWORK:
        if isinstance(step, Conv):
            count[step.name] = step.channels
        else:
            first, second = (count[source] for source in step.sources)
            count[step.name] = first + second if step.op == "Concat" else first
    return count


def weight_shape(step: Conv, count: Mapping[str, int]) -> tuple[int, ...]:
    """[out, in / group, kernel, kernel]."""
    return step.channels, 1 if step.depthwise else count[step.source], step.kernel, step.kernel


# --- training -----------------------------------------------------------------------------------------------


def initial_tensors() -> dict[str, Tensor]:
    """Convolutions (He et al. 2015), BatchNorms and head by name; what is learned requires its gradient."""
    count = channels()
    tensors: dict[str, Tensor] = {}
    for step in NETWORK:
        if isinstance(step, Conv):
            weight = torch.empty(weight_shape(step, count))
            tensors[f"{step.name}/weight"] = torch.nn.init.kaiming_normal_(weight, mode="fan_out")
            for key, value in zip(NORM, (1.0, 0.0, 0.0, 1.0), strict=True):
                tensors[f"{step.name}/bn/{key}"] = torch.full((step.channels,), value)
    tensors["head/weight"] = torch.randn(CLASSES, count[NETWORK[-1].name]) * 0.01
    tensors["head/bias"] = torch.zeros(CLASSES)
    for name, tensor in tensors.items():
        tensor.requires_grad_(not name.endswith(("/mean", "/var")))
    return tensors


def forward(tensors: Mapping[str, Tensor], image: Tensor, *, training: bool) -> Tensor:
    """Logits [samples, 10]; training also moves the running statistics of the BatchNorms, in place."""
    results = {"image": image}
    for step in NETWORK:
        if isinstance(step, Conv):
            y = convolve(step, tensors, results[step.source], training)
        else:
            pair = [results[source] for source in step.sources]
            y = torch.cat(pair, dim=1) if step.op == "Concat" else pair[0] + pair[1]
        results[step.name] = ACTIVATIONS[step.activation](y)
    pooled = results[NETWORK[-1].name].mean(dim=(2, 3))
    return functional.linear(pooled, tensors["head/weight"], tensors["head/bias"])


def convolve(step: Conv, tensors: Mapping[str, Tensor], x: Tensor, training: bool) -> Tensor:
    group = step.channels if step.depthwise else 1
    y = functional.conv2d(x, tensors[f"{step.name}/weight"], None, step.stride, step.kernel // 2, 1, group)
    scale, shift, mean, var = (tensors[f"{step.name}/bn/{key}"] for key in NORM)
    return functional.batch_norm(y, mean, var, scale, shift, training, momentum=0.1, eps=EPSILON)


def jittered(image: Tensor) -> Tensor:
    """Each image turned by up to 8 degrees, scaled by up to 8 % and moved by up to 0.8 pixels."""
    limits = torch.tensor([[0.14], [0.08], [0.2], [0.2]])  # radians, ratio, half widths of the image
    turn, scale, right, down = (2 * torch.rand(4, len(image)) - 1) * limits
    cos, sin = (1 + scale) * torch.cos(turn), (1 + scale) * torch.sin(turn)
    rows = torch.stack([torch.stack([cos, -sin, right], 1), torch.stack([sin, cos, down], 1)], 1)
    grid = functional.affine_grid(rows, list(image.shape), align_corners=False)
    return functional.grid_sample(image, grid, align_corners=False)


def train(split: Split) -> dict[str, Tensor]:
    """SGD with Nesterov momentum; the learning rate warms up and falls along a cosine (OneCycleLR)."""
    torch.manual_seed(SEED)
    tensors = initial_tensors()
    learned = [tensor for tensor in tensors.values() if tensor.requires_grad]
    optimizer = torch.optim.SGD(learned, momentum=0.9, nesterov=True, weight_decay=WEIGHT_DECAY)
    steps = len(split.labels) // BATCH  # the last, smaller batch of an epoch is left out
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, total_steps=EPOCHS * steps)
    image, labels = torch.from_numpy(split.image), torch.from_numpy(split.labels)
    for epoch in range(1, EPOCHS + 1):
        total = 0.0
        for batch in torch.randperm(len(labels))[: steps * BATCH].split(BATCH):
            logits = forward(tensors, jittered(image[batch]), training=True)
            loss = functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 0:
            print(f"epoch {epoch:3}: training loss {total / steps:.4f}", flush=True)
    return {name: tensor.detach() for name, tensor in tensors.items()}


# --- ONNX ---------------------------------------------------------------------------------------------------


def node(op: str, name: str, inputs: list[str], **attributes: Any) -> NodeProto:
    """A node whose one output bears its name."""
    return helper.make_node(op, inputs, [name], name=name, **attributes)


def conv_nodes(step: Conv, source: str) -> list[NodeProto]:
    """A Conv with the BatchNorm folded in, or a Conv without bias and its BatchNormalization."""
    attributes = {
        "group": step.channels if step.depthwise else 1,
        "kernel_shape": [step.kernel] * 2,
        "pads": [step.kernel // 2] * 4,
        "strides": [step.stride] * 2,
    }
    weight, bias, norm = (f"{step.name}/{part}" for part in ("weight", "bias", "bn"))
    if not step.keep_norm:
        return [node("Conv", step.name, [source, weight, bias], **attributes)]
    statistics = [f"{norm}/{key}" for key in NORM]
    return [
        node("Conv", step.name, [source, weight], **attributes),
        node("BatchNormalization", norm, [step.name, *statistics], epsilon=EPSILON),
    ]


def conv_constants(step: Conv, tensors: Mapping[str, Floats]) -> dict[str, Floats]:
    """The weight and the BatchNorm as they are, or both folded into a weight and a bias."""
    weight, norm = f"{step.name}/weight", [f"{step.name}/bn/{key}" for key in NORM]
    if step.keep_norm:
        return {name: tensors[name] for name in (weight, *norm)}
    scale, shift, mean, var = (tensors[name] for name in norm)
    factor = scale / np.sqrt(var + np.float32(EPSILON))
    return {weight: tensors[weight] * factor[:, None, None, None], f"{step.name}/bias": shift - mean * factor}


def join_node(step: Join, sources: list[str]) -> NodeProto:
    attributes = {"axis": 1} if step.op == "Concat" else {}
    return node(step.op, step.name, sources, **attributes)


def activation_node(step: Step, source: str) -> NodeProto:
    limits = ["relu6/low", "relu6/high"] if step.activation == "Clip" else []
    return node(step.activation, f"{step.name}/{step.activation.lower()}", [source, *limits])


def onnx_model(tensors: Mapping[str, Floats]) -> onnx.ModelProto:
    """The trained network in ONNX; a constant is named after its node and its role there."""
    nodes: list[NodeProto] = []
    constants = {"relu6/low": np.array(0, np.float32), "relu6/high": np.array(6, np.float32)}
    results = {"image": "image"}
    for step in NETWORK:
        if isinstance(step, Conv):
            nodes += conv_nodes(step, results[step.source])
            constants |= conv_constants(step, tensors)
        else:
            nodes.append(join_node(step, [results[source] for source in step.sources]))
        if step.activation:
            nodes.append(activation_node(step, nodes[-1].output[0]))
        results[step.name] = nodes[-1].output[0]
    nodes += head_nodes(nodes[-1].output[0])
    constants |= {name: tensors[name] for name in ("head/weight", "head/bias")}
    return assembled(nodes, constants)


def head_nodes(source: str) -> list[NodeProto]:
    gemm = ["head/flatten", "head/weight", "head/bias"]
    return [
        node("GlobalAveragePool", "head/pool", [source]),
        node("Flatten", "head/flatten", ["head/pool"]),
        helper.make_node("Gemm", gemm, ["logits"], name="head", transB=1),
    ]


def assembled(nodes: list[NodeProto], constants: Mapping[str, Floats]) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    opsets = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(
        graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="onnxmpq demo"
    )
    onnx.checker.check_model(model, full_check=True)
    return model


# --- data, and the whole recipe -----------------------------------------------------------------------------


def load_splits() -> tuple[Split, Split, Split]:
    """Training, calibration (a part of training) and held-out images; each keeps the mix of classes."""
    digits = load_digits()
    image = (digits.images[:, None] / 16).astype(np.float32)  # 0..16 to 0..1
    labels = digits.target.astype(np.int64)
    train_rows, eval_rows = divided(np.arange(len(labels)), labels, EVAL_SAMPLES)
    _, calib_rows = divided(train_rows, labels, CALIB_SAMPLES)
    training, calibration, held_out = (
        Split(image[i], labels[i]) for i in (train_rows, calib_rows, eval_rows)
    )
    return training, calibration, held_out


def divided(rows: Labels, labels: Labels, count: int) -> tuple[Labels, Labels]:
    """All rows but `count`, and those `count`, drawn class by class."""
    rest, drawn = train_test_split(rows, test_size=count, stratify=labels[rows], random_state=SEED)
    return rest, drawn


def torch_logits(tensors: Mapping[str, Tensor], image: Floats) -> Floats:
    with torch.no_grad():
        logits: Floats = forward(tensors, torch.from_numpy(image), training=False).numpy()
    return logits


def onnx_logits(model: onnx.ModelProto, image: Floats) -> Floats:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: Floats = session.run(["logits"], {"image": image})[0]
    return logits


def top1(logits: Floats, labels: Labels) -> str:
    hits = int((logits.argmax(axis=1) == labels).sum())
    return f"{100 * hits / len(labels):.2f} % ({hits} of {len(labels)})"


def main() -> None:
    """Train, export, compare ONNX Runtime with PyTorch, and only then write the files."""
    torch.set_num_threads(1)  # the order of sums, hence the weights, depends on it
    training, calibration, held_out = load_splits()
    tensors = train(training)
    model = onnx_model({name: tensor.numpy() for name, tensor in tensors.items()})
    expected, logits = torch_logits(tensors, held_out.image), onnx_logits(model, held_out.image)
    np.testing.assert_allclose(logits, expected, rtol=0, atol=1e-4)

    print(f"training images: top-1 {top1(onnx_logits(model, training.image), training.labels)}")
    print(
        f"held-out images: top-1 {top1(logits, held_out.labels)}, PyTorch {top1(expected, held_out.labels)}"
    )
    print(f"largest difference of a logit to PyTorch: {np.abs(logits - expected).max():.1e}")
    onnx.save(model, HERE / "digits.onnx")
    for name, split in (("calib", calibration), ("eval", held_out)):
        np.savez_compressed(HERE / f"digits.{name}.npz", image=split.image, labels=split.labels)
    for file in sorted(HERE.glob("digits.*")):
        print(f"{file.name}: {file.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
