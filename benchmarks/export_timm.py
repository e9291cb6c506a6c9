"""Networks of timm with random weights, as both exporters of PyTorch write them: what benchmarks/exports.py compiles.

python benchmarks/export_timm.py FOLDER [--networks repvgg_a0 ...]

Run it with an interpreter that has torch, timm and onnxscript. A file is named NETWORK-EXPORTER-OPSET.onnx; one that is there stays.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import timm
import torch

# The opset of the exporter that traces (`legacy`) and of the one on torch.export (`dynamo`); None: not exported by it.
OPSETS: dict[str, tuple[int | None, int | None]] = {
    "mobilenetv3_small_100": (17, 20),
    "ghostnet_100": (18, 19),
    "regnetx_002": (17, 18),
    "mobilevit_xxs": (19, 20),
    "mobilenetv4_conv_small": (20, 18),
    "convnext_atto": (17, 19),
    "efficientnet_b0": (18, 20),
    "vit_tiny_patch16_224": (17, 18),
    "deit_tiny_distilled_patch16_224": (18, 20),
    "repvgg_a0": (17, 19),
    "densenet121": (18, 20),
    "inception_v3": (17, None),
    "swin_tiny_patch4_window7_224": (None, 18),
}
_SEED = 0  # of the weights
_NOISE, _FORWARDS = 8, 2  # images in each of the forwards that set running statistics
_NOTHING = 1e-3
_COARSE, _FINE = 8, 0.3  # pixels a side, which are enlarged; the deviation of what is added to each pixel


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--networks", nargs="*", default=list(OPSETS))
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.networks:
        for exporter, opset in zip(("legacy", "dynamo"), OPSETS[name], strict=True):
            file = options.folder / f"{name}-{exporter}-{opset}.onnx"
            if opset is not None and not file.is_file():
                export(name, opset, file, dynamo=exporter == "dynamo")
                print(file, file.stat().st_size, flush=True)


def export(name: str, opset: int, file: Path, *, dynamo: bool) -> None:
    """Write a network as one file; the exporter that traces leaves the batch free."""
    torch.manual_seed(_SEED)
    network = timm.create_model(name, pretrained=False, exportable=not dynamo)
    image = torch.randn(1, *network.default_cfg["input_size"])
    open_branches(network)
    set_statistics(network, image)
    free = {} if dynamo else {"dynamic_axes": {"input": {0: "batch"}, "output": {0: "batch"}}}
    told = {"input_names": ["input"], "output_names": ["output"], "opset_version": opset, "dynamo": dynamo}
    torch.onnx.export(network, (image,), str(file), external_data=False, **told, **free)


def open_branches(network: torch.nn.Module) -> None:
    """Factors that a branch is multiplied with become 1 where training starts them at nothing: it would have no say."""
    for name, factor in network.named_parameters():
        if factor.ndim == 1 and name.endswith(("weight", "gamma")) and factor.abs().max() < _NOTHING:
            torch.nn.init.ones_(factor)


def set_statistics(network: torch.nn.Module, image: torch.Tensor) -> None:
    """Running means and variances become those of smooth noise, as `benchmarks/exports.py` feeds it.

    Without, random weights let activations vanish or explode.
    """
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean over all forwards
    network.train()
    with torch.no_grad():
        for _ in range(_FORWARDS):
            coarse = torch.nn.functional.interpolate(
                torch.randn(_NOISE, 3, _COARSE, _COARSE), image.shape[2:]
            )
            network(coarse + _FINE * torch.randn(_NOISE, *image.shape[1:]))
    network.eval()


if __name__ == "__main__":
    main()
