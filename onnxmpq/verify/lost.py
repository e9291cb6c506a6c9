"""Where a compiled model no longer does what the original did: output by output, in words."""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnxmpq.values.output_kind import OutputKind
from onnxmpq.values.score import OutputScore, Score

_LEAST_AGREEMENT = 0.5
_LEAST_SQNR = 10.0  # dB
_LEAST_ON_NOISE = 5.0  # dB: of noise networks make little that is clear; one bit a weight leaves 4.4
_LEAST_CONTRAST = 3.0  # dB: the noise is half of what the output says
_LEAST_COSINE = 0.9
_LEAST_ELSEWHERE = 0.25  # of the rows that tell more than the commonest class
_MOST_RESIZED = 2.0  # times as many values, where their number depends on the data
_CLEAR = 20.0  # dB: logits that change class at less noise are none, whatever their shape
_MOST_MOVED = 0.01  # of the elements


def lost_outputs(score: Score, *, real: bool) -> tuple[str, ...]:
    """What is lost of each output that is; nothing where the file does what the model did.

    `real`: judged on real data. What noise makes of a network says little of what it does: only more noise than signal counts.
    """
    if not real:
        worst = {
            name: output.worst_sqnr for name, output in score.outputs.items() if output.worst_sqnr is not None
        }
        return tuple(
            f"output {name!r} is at {db:.1f} dB on noise; give --data to be sure"
            for name, db in worst.items()
            if db < _LEAST_ON_NOISE
        )
    return tuple(text for name, output in score.outputs.items() for text in _lost(name, output))


def _lost(name: str, output: OutputScore) -> Iterator[str]:
    if not 1 / _MOST_RESIZED <= output.resized <= _MOST_RESIZED:
        yield f"output {name!r} has {output.resized:.2g} times as many values in {output.reshaped:.0%} of the runs"
    elif output.moved > _MOST_MOVED:
        yield f"output {name!r} became NaN or Inf, or was it and no longer is, in {output.moved:.1%} of its values"
    elif output.kind is None:
        yield from _low(name, output.agreement, _LEAST_AGREEMENT, "equal values")
    elif output.agreement is not None and not output.is_binary:
        if output.kind is not OutputKind.LOGITS or _noise(output) < _CLEAR:
            yield from _low(name, output.agreement, _LEAST_AGREEMENT, "same class")
            yield from _low(
                name, output.elsewhere, _LEAST_ELSEWHERE, "same class where fp32 does not give its commonest"
            )
    elif output.cosine is not None:
        if output.cosine < _LEAST_COSINE:
            yield f"output {name!r} has cosine {output.cosine:.3f} to fp32"
    else:
        yield from _noisy(name, output)


def _noise(output: OutputScore) -> float:
    """The least that is known of an output's quality in dB."""
    known = [value for value in (output.worst_sqnr, output.contrast) if value is not None]
    return min(known, default=-math.inf)


def _low(name: str, share: float | None, least: float, what: str) -> Iterator[str]:
    if share is not None and share < least:
        yield f"output {name!r} has {share:.1%} {what}"


def _noisy(name: str, output: OutputScore) -> Iterator[str]:
    part = f"{output.worst} of output {name!r} are" if output.worst else f"output {name!r} is"
    if output.worst_sqnr is not None and output.worst_sqnr < _LEAST_SQNR:
        yield f"{part} at {output.worst_sqnr:.1f} dB"
    elif output.contrast is not None and output.contrast < _LEAST_CONTRAST:
        yield f"output {name!r} is at {output.contrast:.1f} dB about its mean"
