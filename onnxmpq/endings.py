"""How the command ends: signals and a lack of memory, too, are one line and an exit code, whatever it is in."""

from __future__ import annotations

import codecs
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Thread, current_thread, main_thread
from typing import NoReturn

from onnxmpq.onnx_io.output_file import remove_unfinished

_GRACE = 1.2  # seconds in which a process that got a signal may end by itself
_SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
# What a lack of memory looks like, besides a MemoryError: of the loader, of C++, of threads, of ONNX Runtime.
_SHORT = (
    "failed to map segment", "cannot allocate memory", "bad_alloc", "bad allocation", "can't start new thread",
    "unable to allocate", "failed to allocate", "out of memory",
)  # fmt: skip


class Terminated(BaseException):
    """SIGTERM. What ends a job ends it as Ctrl-C does, so that an unfinished file goes, too."""


def run_to_the_end() -> None:
    """Run the command, which ends with an exit code; interrupted by a signal, with one line and the shell's code for it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors=_REPLACE)
    try:
        with _watched():
            from onnxmpq.commands import run

            run()
    except KeyboardInterrupt:
        _ended(signal.SIGINT)
    except Terminated:
        _ended(signal.SIGTERM)
    except Exception as error:
        if not is_short_of_memory(error):
            raise
        print("error: not enough memory; give the process more, or smaller inputs with --shape", file=sys.stderr)  # fmt: skip
        sys.exit(1)


def is_short_of_memory(error: BaseException | None) -> bool:
    """True where this error, or one that led to it, is of too little memory."""
    while error is not None:
        if isinstance(error, MemoryError) or any(word in str(error).lower() for word in _SHORT):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def _watched() -> Iterator[None]:
    """Signals end the process within seconds, whatever it is in: long computations do not let Python's handlers run."""
    if current_thread() is not main_thread() or not hasattr(os, "set_blocking"):  # Windows before Python 3.12
        yield
        return
    received, sent = os.pipe()
    os.set_blocking(sent, False)
    before = signal.set_wakeup_fd(sent, warn_on_full_buffer=False)
    is_ours = signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if is_ours:
        signal.signal(signal.SIGTERM, _terminate)
    Thread(target=_enforce, args=(received,), daemon=True).start()
    try:
        yield
    except (KeyboardInterrupt, Terminated):
        raise  # and watch on: the interpreter waits for threads that still compute
    except BaseException:
        _unwatch(before, sent, is_ours)
        raise
    _unwatch(before, sent, is_ours)


def _unwatch(before: int, sent: int, is_ours: bool) -> None:
    if is_ours:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.set_wakeup_fd(before)
    os.close(sent)


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise Terminated


def _enforce(received: int) -> None:
    """Wait for a signal that ends the process, and end it where it does not end by itself."""
    while number := os.read(received, 1):
        if number[0] in _SAID:
            time.sleep(_GRACE)
            remove_unfinished()
            _say(signal.Signals(number[0]))
            os._exit(128 + number[0])
    os.close(received)


def _ended(number: signal.Signals) -> NoReturn:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _say(number)
    sys.exit(128 + number)


def _say(number: signal.Signals) -> None:
    """One line, once."""
    if said := _SAID.pop(number, ""):
        _SAID.clear()
        print(f"error: {said}; no unfinished file was left behind", file=sys.stderr, flush=True)


def _replaced(error: UnicodeError) -> tuple[str, int]:
    """What a terminal shows in place of letters that it does not have."""
    assert isinstance(error, UnicodeEncodeError)
    return "".join(
        "u" if letter == "µ" else "?" for letter in error.object[error.start : error.end]
    ), error.end


_REPLACE = "onnxmpq.replace"
codecs.register_error(_REPLACE, _replaced)
