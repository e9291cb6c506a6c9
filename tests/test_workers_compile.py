"""The same file, whoever rounds and measures: this process, local workers, those of a scheduler, and where one of them is lost."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import onnx
import pytest
from loopback import scheduler

from onnxmpq import compile_model
from onnxmpq.observer import Observer
from onnxmpq.testing import classifier, labelled


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("workers") / "model.onnx"
    onnx.save(classifier(), file)
    return file


@pytest.fixture(scope="module")
def alone(model: Path) -> bytes:
    """The file that this process makes."""
    return written(model, model.with_name("alone.onnx"))


def written(model: Path, output: Path, **asked: Any) -> bytes:
    compile_model(
        model,
        "4bit-avg",
        labelled(onnx.load(model)),
        output=output,
        activations="int8",
        verify=False,
        **asked,
    )
    return output.read_bytes()


class Killer(Observer):
    """Kills a child of this process at the first progress of a stage."""

    def __init__(self, wanted: str) -> None:
        self.wanted, self.now, self.killed = wanted, "", 0

    def stage(self, name: str) -> None:
        self.now = name

    def progress(self, done: int, total: int) -> None:
        del done, total
        if self.now == self.wanted and not self.killed:
            for child in children():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
                    self.killed = child


def children() -> list[int]:
    """Processes that loky started: whose parent is this one, or its tracker."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = status.read_text(encoding="utf-8").rsplit(")", 1)[1].split()
            command = status.with_name("cmdline").read_bytes()
            if int(fields[1]) == os.getpid() and b"popen_loky" in command:
                found.append(int(status.parent.name))
    return found


def test_local_workers_make_the_same_file(model: Path, alone: bytes, tmp_path: Path) -> None:
    assert written(model, tmp_path / "two.onnx", workers=2) == alone


@pytest.mark.parametrize("stage", ["round", "sensitivity"])
def test_workers_that_are_killed_change_nothing(
    model: Path, alone: bytes, tmp_path: Path, stage: str
) -> None:
    killer = Killer(stage)
    assert written(model, tmp_path / "two.onnx", workers=2, observer=killer) == alone
    assert killer.killed


def test_a_cluster_makes_the_same_file(model: Path, alone: bytes, tmp_path: Path) -> None:
    pytest.importorskip("distributed", reason="the extra 'cluster' is not installed")
    with scheduler(tmp_path, workers=2) as address:
        assert written(model, tmp_path / "cluster.onnx", cluster=address) == alone


def test_a_metric_of_the_users_own_file_is_sent(model: Path, tmp_path: Path) -> None:
    (tmp_path / "beside.py").write_text("def power(x):\n    return x**2\n", encoding="utf-8")
    file = tmp_path / "mine.py"
    file.write_text(
        "from beside import power\n\n\ndef loss(reference, outputs):\n"
        "    return sum(float(power(reference[name] - outputs[name]).sum()) for name in reference)\n",
        encoding="utf-8",
    )
    metric = f"{file}:loss"
    alone = written(model, tmp_path / "alone.onnx", metric=metric)
    assert written(model, tmp_path / "two.onnx", metric=metric, workers=2) == alone
