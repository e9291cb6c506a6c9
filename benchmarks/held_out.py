"""The held-out images of a network, which nothing was chosen on, and what the original says of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property

from networks import Network, evaluation, open_samples

from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.arrays import Array

_BATCH = 50


class HeldOut:
    """The original runs once over the images, however many files are held against it."""

    def __init__(self, network: Network, runtime: Runtime) -> None:
        self.network, self.runtime = network, runtime
        self.images = open_samples(network, evaluation(network), samples=None).remembered()

    @cached_property
    def expected(self) -> list[Array]:
        """The original's output for every batch."""
        session = self.runtime.session(self.network.model)
        return [session.run(batch.feeds)[session.outputs[0]] for batch in self.images.batches(_BATCH)]

    def outputs(self, sessions: Mapping[str, Session]) -> Iterator[tuple[str, Array, Array, Array | None]]:
        """Key, original's output, own output and labels of every batch and session: one pass for all."""
        for expected, batch in zip(self.expected, self.images.batches(_BATCH), strict=True):
            for key, session in sessions.items():
                yield key, expected, session.run(batch.feeds)[session.outputs[0]], batch.labels
