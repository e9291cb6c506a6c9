import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from onnxmpq import endings

BUSY = """
import sys, time
from pathlib import Path
import onnxmpq.commands
from onnxmpq.cli import main
from onnxmpq.onnx_io.output_file import written

def run():
    with written(b"half", Path(sys.argv[1]) / "out"):
        print("started", flush=True)
        while True:
            try:
                time.sleep(60)
            except {swallowed}:
                pass

onnxmpq.commands.run = run
main()
"""


@pytest.mark.parametrize("swallowed", ["ZeroDivisionError", "BaseException"], ids=["ends", "goes on"])
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_one_line_whatever_it_does(
    tmp_path: Path, sent: signal.Signals, swallowed: str
) -> None:
    code = BUSY.format(swallowed=swallowed)
    command = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # noqa: PLW1509
    )  # fmt: skip
    assert command.stdout is not None
    assert command.stdout.readline() == "started\n"
    command.send_signal(sent)
    _, said = command.communicate(timeout=30)
    assert command.returncode == 128 + sent
    assert len(said.splitlines()) == 1
    assert "no unfinished file was left behind" in said
    assert not list(tmp_path.iterdir())


def test_the_handlers_are_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.commands.run", lambda: None)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    endings.run_to_the_end()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
    assert signal.set_wakeup_fd(-1) == -1


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        ImportError("libx.so: failed to map segment from shared object"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("can't start new thread"),
        OSError(12, os.strerror(12)),
    ],
)
def test_too_little_memory_is_told_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def run() -> None:
        try:
            raise error
        except type(error) as cause:
            raise ValueError("HIGHS is not installed") from cause

    monkeypatch.setattr("onnxmpq.commands.run", run)
    with pytest.raises(SystemExit) as ended:
        endings.run_to_the_end()
    assert ended.value.code == 1
    assert capsys.readouterr().err.startswith("error: not enough memory")


def test_a_fault_of_ours_is_no_lack_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("onnxmpq.commands.run", run)
    with pytest.raises(ZeroDivisionError):
        endings.run_to_the_end()


@pytest.mark.parametrize("encoding", ["ascii", "gbk", "cp932", "latin-1"])
def test_a_terminal_shows_what_it_can(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr("onnxmpq.commands.run", lambda: print("5 µs", os.fsdecode(b"\xff"), "😀"))
    endings.run_to_the_end()
    stream.flush()
    shown = stream.buffer.getvalue().decode(encoding)
    assert shown.replace("µ", "u") == "5 us ? ?\n"
