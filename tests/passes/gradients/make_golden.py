"""Write golden.npz: the gradients of golden_networks.py as PyTorch finds them, in double precision.

python tests/passes/gradients/make_golden.py      # needs the `reference` extra
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from golden_networks import GOLDEN, GoldenNetwork, golden_networks
from torch.nn import functional as nn


def main() -> None:
    arrays = {}
    for network in golden_networks():
        for name, gradient in gradients(network).items():
            arrays[f"{network.name}/{name}"] = gradient.astype(np.float32)
    np.savez_compressed(GOLDEN, **arrays)


def gradients(network: GoldenNetwork) -> dict[str, Any]:
    """The gradients of the loss with respect to the input and every weight that it depends on smoothly."""
    values = {"x": network.x, **network.weights}
    w = {n: torch.tensor(v, dtype=torch.float64).requires_grad_() for n, v in values.items()}
    {"residual": residual, "attention": attention, "decoder": decoder}[network.name](w, network).backward()
    return {name: tensor.grad.numpy() for name, tensor in w.items() if tensor.grad is not None}


def residual(w: Any, network: GoldenNetwork) -> Any:
    c1 = nn.conv2d(w["x"], w["w1"], w["b1"], stride=2, padding=1)
    scale, shift, mean, var = (w[name].reshape(4, 1, 1) for name in ("scale", "shift", "mean", "var"))
    n1 = (c1 - mean) / (var + 1e-5).sqrt() * scale + shift
    r1 = nn.leaky_relu(n1, 0.1)
    r2 = nn.conv2d(r1, w["w2"], w["b2"], padding=1, groups=4).clamp(0, 1)
    s1 = r2 + r1
    c3 = nn.conv2d(nn.max_pool2d(s1, 3, 1, 1), w["w3"], stride=2, padding=2, dilation=2, groups=2)
    c4 = nn.conv2d(nn.avg_pool2d(s1, 2, 2, ceil_mode=True), w["w4"])
    y = nn.linear(nn.elu(c3 + c4).mean((2, 3)), w["w5"], w["b5"])
    return nn.cross_entropy(y, torch.tensor(network.target), reduction="sum")


def attention(w: Any, network: GoldenNetwork) -> Any:
    n = nn.layer_norm(w["x"], (4,), w["scale"], w["shift"])
    q, k, v = (n @ w[name] for name in ("wq", "wk", "wv"))
    r = torch.softmax(q @ k.transpose(1, 2) * w["half"], dim=-1) @ v + w["x"]
    z = nn.gelu(r @ w["w1"] + w["b1"]) @ w["w2"] + r
    logs = torch.log_softmax(z.flatten(1) @ w["w3"], dim=-1)
    return nn.kl_div(logs, torch.tensor(network.target, dtype=torch.float64), reduction="sum")


def decoder(w: Any, network: GoldenNetwork) -> Any:
    c1 = nn.conv_transpose2d(w["x"], w["w1"], w["b1"], stride=2, padding=1, groups=2)
    r1 = nn.prelu(nn.instance_norm(c1, weight=w["scale"], bias=w["shift"]), w["slope"].flatten())
    up = nn.interpolate(r1, scale_factor=2, mode="bilinear")
    c2 = nn.conv2d(torch.cat([up, nn.interpolate(r1, scale_factor=2)], dim=1), w["w2"], padding=1)
    y = torch.tanh(nn.pixel_shuffle(c2, 2))
    return (y - torch.tensor(network.target)).square().sum()


if __name__ == "__main__":
    main()
