from __future__ import annotations

import os
from threading import Barrier, Thread

import pytest

from onnxmpq.runtime.silence import silenced


@pytest.mark.parametrize("descriptor", [1, 2])
def test_only_what_is_written_meanwhile_is_lost(descriptor: int, capfd: pytest.CaptureFixture[str]) -> None:
    os.write(descriptor, b"before ")
    with silenced(descriptor):
        os.write(descriptor, b"native noise ")
    os.write(descriptor, b"after")
    captured = capfd.readouterr()
    assert (captured.out if descriptor == 1 else captured.err) == "before after"


def test_threads_that_overlap_leave_the_stream_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    """The first one in goes out first: the other one must not restore what it found."""
    entered, left = Barrier(2), Barrier(2)

    def first() -> None:
        with silenced(1):
            entered.wait(5)
        left.wait(5)

    def second() -> None:
        entered.wait(5)
        with silenced(1):
            left.wait(5)

    threads = [Thread(target=first), Thread(target=second)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    os.write(1, b"still here")
    assert capfd.readouterr().out == "still here"
