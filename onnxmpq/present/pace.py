"""How long a compile will take yet, from the pace of what it has done."""

from __future__ import annotations

from collections.abc import Mapping

_TELLING = 0.05  # of a stage: it goes at its own pace from then on


class Pace:
    """The stages of a compile, `share` of the current `stage` done, with the seconds that they took, and what work they were expected to be.

    Stages go in their order: what was not expected takes no time, what was passed over does not come any more.
    """

    def __init__(self) -> None:
        self.work: Mapping[str, float] = {}
        self.stage, self.share = "", 0.0
        self._seconds: dict[str, float] = {}
        self._start = 0.0

    def begin(self, stage: str, now: float) -> None:
        """A stage begins, and the one before it has ended."""
        self.end(now)
        self.stage, self._start, self.share = stage, now, 0.0

    def end(self, now: float) -> float:
        """The current stage has ended; the seconds that it took."""
        seconds = self._spent(now)
        if self.stage:
            self._seconds[self.stage] = self._seconds.get(self.stage, 0.0) + seconds
        self.stage = ""
        return seconds

    def progress(self, done: int, total: int) -> None:
        """So much of the current stage is done."""
        self.share = min(done / total, 1.0) if total > 0 else 0.0

    def done(self) -> float:
        """The share of all work that is done, in [0, 1]; 0 before any is expected."""
        total = sum(self.work.values())
        ahead = sum(self.work[name] for name in self._ahead()) + (1 - self.share) * self._own
        return 1 - ahead / total if total > 0 else 0.0

    def left(self, now: float) -> float | None:
        """Seconds to the end of the last stage; None before any pace is known."""
        spent = self._spent(now)
        tells = self._own > 0 and self.share >= _TELLING
        ended = [name for name in self._seconds if name in self.work]
        seconds = sum(self._seconds[name] for name in ended) + tells * spent
        work = sum(self.work[name] for name in ended) + tells * self.share * self._own
        if seconds <= 0 or work <= 0:
            return None
        pace = seconds / work
        own = self.left_of_stage(now) if tells else None
        here = max(self._own * pace - spent, 0.0) if own is None else own
        return here + pace * sum(self.work[name] for name in self._ahead())

    def left_of_stage(self, now: float) -> float | None:
        """Seconds to the end of the current stage, by its own pace; None before that tells."""
        return self._spent(now) * (1 / self.share - 1) if self.share >= _TELLING else None

    def _spent(self, now: float) -> float:
        """Seconds of the current stage so far."""
        return now - self._start if self.stage else 0.0

    @property
    def _own(self) -> float:
        """The work of the current stage."""
        return self.work.get(self.stage, 0.0)

    def _ahead(self) -> list[str]:
        """The expected stages behind the current one, or behind the last that ended."""
        names = list(self.work)
        passed = [names.index(name) for name in (*self._seconds, self.stage) if name in self.work]
        return names[max(passed, default=-1) + 1 :]
