import pytest

from onnxmpq.observer import Observer, Stages


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
