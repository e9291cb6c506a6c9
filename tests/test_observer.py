import pytest

from onnxmpq.observer import Attempts, Observer, Stages


class Recorder(Observer):
    def __init__(self) -> None:
        self.heard: list[str] = []

    def note(self, text: str) -> None:
        self.heard.append(text)

    def stage(self, name: str) -> None:
        self.heard.append(name)


def test_stages_are_timed_and_told() -> None:
    recorder = Recorder()
    stages = Stages(recorder)
    with stages("load"):
        stages.note("hello")
    with stages("load"):
        pass
    assert recorder.heard == ["load", "hello", "load"]
    assert stages.notes == ["hello"]
    assert stages.seconds.keys() == {"load"}
    assert stages.seconds["load"] >= 0


def test_a_stage_that_fails_has_no_time() -> None:
    stages = Stages(Observer())
    with pytest.raises(ValueError, match="boom"), stages("load"):
        raise ValueError("boom")
    assert not stages.seconds


def test_attempts_are_told_as_one_piece_of_work() -> None:
    told: list[tuple[int, int]] = []
    attempts = Attempts(lambda *call: told.append(call), 2)
    for _ in range(3):  # one more than expected
        attempts.begin()
        attempts.progress(5, 10)
        attempts.progress(10, 10)
    assert told == [(5, 20), (10, 20), (15, 20), (20, 20), (25, 30), (30, 30)]
