"""What other tools reach on the same networks, test images and calibration images: measured once, told beside ours."""

from __future__ import annotations

from dataclasses import dataclass

from machine import table

_WHERE = """Other tools, on the same files, the same test images and the first 512 calibration images, no training; one run each
on 2026-11-20 on two shared cores of an AMD EPYC (AVX-512 VNNI) with onnxruntime 1.31.1. Bits are means over the weights.
*Simulated*: the tool rounds the weights and stores them as fp32. *Plain KL + DP*: our reading of the common recipe, each layer's
KL measured alone, weights to nearest with scales of least squared error or, where it says so, of the weights' range, widths by an exact program.
Of several settings of a tool that give one size the best is shown."""
_COLUMNS = ["network", "tool", "configuration", "bits", "activations", "top-1", "file bytes", "seconds"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One row: top-1 in per cent, bytes of the file as the tool writes it (None: none), seconds (None: not told)."""

    network: str
    tool: str
    configuration: str
    bits: float
    activations: str
    top1: float
    file_bytes: int | None = None
    seconds: float | None = None
    simulated: bool = False


PEERS = (
    Peer("resnet20", "MCT", "mixed 2/4/8", 4.98, "int8", 91.68, 1_119_668, 62.3, simulated=True),
    Peer("resnet20", "AIMET", "mixed, AMP at 1 % drop", 5.21, "int8", 90.96, 206_785, 94.3),
    Peer("resnet20", "AIMET", "mixed, nearest", 4.98, "fp32", 90.85, 189_318, 7.3),
    Peer("resnet20", "plain KL + DP", "mixed 4/8", 4.98, "fp32", 91.80),
    Peer("resnet20", "ONNX Runtime", "mixed 4/8", 4.98, "int8", 91.25, 269_174, 2.4),
    Peer("resnet20", "MCT", "mixed 2/4/8", 3.98, "int8", 91.13, 1_119_668, 67.6, simulated=True),
    Peer("resnet20", "plain KL + DP", "mixed 2 to 8", 3.99, "fp32", 91.49),
    Peer("resnet20", "AIMET", "4 bits, SeqMSE", 4.0, "fp32", 90.88, 156_417, 57.5),
    Peer("resnet20", "AIMET", "4 bits, nearest", 4.0, "fp32", 89.79, 156_417, 1.3),
    Peer("resnet20", "AIMET", "4 bits, nearest", 4.0, "int8", 89.73, 166_153, 1.4),
    Peer("resnet20", "ONNX Runtime", "4 bits, first and last 8", 4.02, "int8", 87.46, 236_774, 2.4),
    Peer("resnet20", "esp-ppq", "4 bits", 4.0, "fp32", 86.99, 1_086_409, 22.1, simulated=True),
    Peer("resnet20", "plain KL + DP", "mixed 2 to 8", 3.49, "fp32", 89.62),
    Peer("resnet20", "MCT", "mixed 2/4/8", 2.99, "int8", 79.59, 1_119_668, 8.3, simulated=True),
    Peer("resnet20", "plain KL + DP", "mixed 2 to 8", 3.0, "fp32", 82.97),
    Peer("resnet56", "MCT", "mixed 2/4/8", 4.96, "int8", 93.31, 3_516_114, 43.0, simulated=True),
    Peer("resnet56", "plain KL + DP", "mixed 2 to 8", 4.99, "fp32", 93.42),
    Peer("resnet56", "AIMET", "mixed, nearest", 4.99, "fp32", 93.28, 591_807, 41.8),
    Peer("resnet56", "ONNX Runtime", "mixed 4/8", 4.99, "int8", 92.89, 805_738, 5.9),
    Peer("resnet56", "MCT", "mixed 2/4/8", 3.99, "int8", 93.14, 3_516_114, 137.3, simulated=True),
    Peer("resnet56", "plain KL + DP", "mixed 2 to 8, ranges", 3.99, "fp32", 92.85),
    Peer("resnet56", "AIMET", "4 bits, nearest", 4.0, "fp32", 91.86, 486_160, 3.0),
    Peer("resnet56", "AIMET", "4 bits, nearest", 4.0, "int8", 91.79, 511_130, 6.7),
    Peer("resnet56", "ONNX Runtime", "4 bits, first and last 8", 4.0, "int8", 92.59, 700_658, 7.6),
    Peer("resnet56", "esp-ppq", "4 bits", 4.0, "fp32", 92.07, 3_430_419, 9.5, simulated=True),
    Peer("resnet56", "plain KL + DP", "mixed 2 to 8, ranges", 3.49, "fp32", 91.81),
    Peer("resnet56", "MCT", "mixed 2/4/8", 3.0, "int8", 85.92, 3_516_114, 56.8, simulated=True),
    Peer("resnet56", "plain KL + DP", "mixed 2 to 8, ranges", 2.99, "fp32", 81.99),
)


def section() -> str:
    """The rows as a part of a page."""
    rows = [_cells(peer) for peer in sorted(PEERS, key=lambda p: (p.network, -round(p.bits), -p.top1))]
    return f"## Other tools\n\n{_WHERE}\n\n{table(_COLUMNS, rows)}"


def _cells(peer: Peer) -> list[str]:
    stored = "" if peer.file_bytes is None else f"{peer.file_bytes:,}"
    return [
        peer.network, peer.tool, peer.configuration, f"{peer.bits:.2f}", peer.activations, f"{peer.top1:.2f}",
        f"{stored} (simulated)" if peer.simulated else stored,
        "" if peer.seconds is None else f"{peer.seconds:.1f}",
    ]  # fmt: skip
