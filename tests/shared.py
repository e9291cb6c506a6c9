"""The networks and data in ../shared, beside the checkout: tests that need them are left out, aloud, where they are not."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "models" / "digits.onnx"
SHARED = ROOT.parent / "shared"
needs_shared = pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared")


def shared(name: str) -> Path:
    """A file of ../shared; the test is skipped where it is not there."""
    if not (SHARED / name).is_file():
        pytest.skip(f"needs ../shared/{name}")
    return SHARED / name
