"""What methods came to: a point for each network, rounding, method, seed, budget and count of images, kept line by line."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

Key = tuple[str, str, str, int, float, int]


@dataclass(frozen=True, slots=True)
class Point:
    """A method's plan for one budget as a file, `digest` says which; `error` is why there is none.

    `seconds`, `evaluations` and `samples` are what the search cost.
    """

    model: str
    rounding: str
    method: str
    seed: int
    budget: float
    calibration: int  # images
    commit: str
    digest: str = ""
    average_bits: float = 0.0
    file_bytes: int = 0
    seconds: float = 0.0
    evaluations: int = 0
    samples: int = 0
    error: str = ""

    @property
    def key(self) -> Key:
        return self.model, self.rounding, self.method, self.seed, self.budget, self.calibration


def read(path: Path) -> list[Point]:
    """The points of a file, the last one of each key; none where there is no file."""
    if not path.is_file():
        return []
    found = [Point(**json.loads(line)) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({point.key: point for point in found}.values())


def append(path: Path, point: Point) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(asdict(point)) + "\n")
