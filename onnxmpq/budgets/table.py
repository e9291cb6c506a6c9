"""The kinds of budgets, in the order in which they are shown."""

from __future__ import annotations

from onnxmpq.budgets.bits import BITS
from onnxmpq.budgets.bops import BOPS
from onnxmpq.budgets.drop import DROP
from onnxmpq.budgets.file_bytes import FILE_BYTES
from onnxmpq.budgets.kind import Kind
from onnxmpq.budgets.latency import LATENCY
from onnxmpq.budgets.milliseconds import MILLISECONDS
from onnxmpq.budgets.ratio import RATIO

KINDS: tuple[Kind, ...] = (BITS, FILE_BYTES, DROP, RATIO, BOPS, LATENCY, MILLISECONDS)
EXAMPLES: tuple[str, ...] = tuple(example for kind in KINDS for example in kind.examples)
