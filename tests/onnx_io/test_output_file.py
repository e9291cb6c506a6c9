import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from onnxmpq.errors import OutputError
from onnxmpq.onnx_io.output_file import remove_unfinished, require_writable, write_file, written


def test_the_name_appears_only_when_the_body_is_through(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    with written(b"new", path) as part:
        assert part.parent == tmp_path
        assert part.read_bytes() == b"new"
        assert not path.exists()
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
def test_what_the_body_raises_undoes_the_write(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(error), written(b"new", path):
        raise error
    assert [f.name for f in tmp_path.iterdir()] == ["a.bin"]
    assert path.read_bytes() == b"old"


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(call, full)
    with pytest.raises(OutputError, match=r"a\.bin \(3 bytes\) cannot be written: No space left"):
        write_file(b"new", tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_a_trial_that_is_interrupted_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch = Path.touch

    def interrupted(path: Path, mode: int = 0o666, exist_ok: bool = True) -> None:
        touch(path, mode, exist_ok)
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.touch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        require_writable(tmp_path / "out")
    assert not list(tmp_path.iterdir())


KILLED = """
import os, signal, sys
from pathlib import Path
from onnxmpq.onnx_io.output_file import written
with written(b"new", Path(sys.argv[1])):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "out")], check=False)
    assert len(list(tmp_path.glob(".onnxmpq-*.part"))) == 1
    with written(b"b", tmp_path / "other") as part:
        assert list(tmp_path.iterdir()) == [part]


def test_what_others_still_write_stays(tmp_path: Path) -> None:
    with written(b"a", tmp_path / "a") as part:
        require_writable(tmp_path / "b")
        assert part.read_bytes() == b"a"


def test_what_is_being_written_can_be_given_up(tmp_path: Path) -> None:
    with pytest.raises(OutputError), written(b"a", tmp_path / "a"):
        remove_unfinished()
    assert not list(tmp_path.iterdir())


def test_what_can_be_told_beforehand(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"input")
    (tmp_path / "alias").symlink_to(tmp_path / "in")
    with pytest.raises(OutputError, match="never overwritten"):
        require_writable(tmp_path / "alias", [tmp_path / "in"])
    with pytest.raises(OutputError, match="no folder"):
        require_writable(tmp_path / "x" / "y")
    with pytest.raises(OutputError, match="it is a folder"):
        require_writable(tmp_path)
    require_writable(tmp_path / "out", [tmp_path / "in", tmp_path / "gone"])
