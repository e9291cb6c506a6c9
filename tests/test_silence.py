from __future__ import annotations

import os

import pytest

from onnxmpq.silence import silenced


@pytest.mark.parametrize("descriptor", [1, 2])
def test_only_what_is_written_meanwhile_is_lost(descriptor: int, capfd: pytest.CaptureFixture[str]) -> None:
    os.write(descriptor, b"before ")
    with silenced(descriptor):
        os.write(descriptor, b"native noise ")
    os.write(descriptor, b"after")
    captured = capfd.readouterr()
    assert (captured.out if descriptor == 1 else captured.err) == "before after"
