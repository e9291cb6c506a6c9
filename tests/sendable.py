"""Work that tests send to other processes, which import this module."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from onnxmpq.runtime.workers import Opened


@dataclass(frozen=True)
class Power(Opened):
    """Work with something that is opened where it runs."""

    exponent: int
    folder: Path | None = None

    @cached_property
    def opened(self) -> Any:
        if self.folder is not None:
            (self.folder / f"opened-{os.getpid()}").touch()
        return lambda value: value**self.exponent  # cannot be sent

    def __call__(self, item: int) -> int:
        if item < 0:
            raise ValueError(f"{item} is no number of mine")
        return int(self.opened(item))


@dataclass(frozen=True)
class DiesOnce:
    """Work whose process is killed on an item, as long as a file is not there."""

    killed: Path
    always: bool = False
    after: float = 0.0  # seconds

    def __call__(self, item: int) -> int:
        if item < 3:
            time.sleep(0.2)  # they wait for one another's worker
        if item == 3 and (self.always or not self.killed.exists()):
            time.sleep(self.after)
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return item


def pid(_item: int) -> int:
    return os.getpid()


def device(_item: int) -> tuple[int, str]:
    time.sleep(0.01)
    return os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"]
