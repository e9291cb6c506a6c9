"""What files do to the held-out images of a network: each file is run once, and what came of it is kept.

A file is known by the digest of its bytes: methods often come to the same plan, and then share a judgement.
"""

from __future__ import annotations

import base64
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx
from held_out import HeldOut
from networks import Network
from numpy.typing import NDArray
from paired import Hits

from onnxmpq.metrics.metric import classes, kl_divergence
from onnxmpq.runtime.session import Runtime, Session
from onnxmpq.values.score import OutputKind

FP32 = "fp32"  # stands for the digest of the network as it was given


@dataclass(frozen=True, slots=True)
class Judgement:
    """One file on all held-out images: the mean KL to the original in nats, and `packed`, what `hits` reads."""

    model: str
    digest: str
    images: int
    kl: float
    packed: str

    @property
    def key(self) -> tuple[str, str]:
        return self.model, self.digest

    @property
    def hits(self) -> Hits:
        octets = np.frombuffer(zlib.decompress(base64.b64decode(self.packed)), np.uint8)
        return np.unpackbits(octets, count=self.images).astype(np.bool_)


def packed(hits: Hits) -> str:
    """Eight images a byte, deflated, as text."""
    return base64.b64encode(zlib.compress(np.packbits(hits).tobytes(), 9)).decode()


def digest(model: onnx.ModelProto) -> str:
    """The first 64 bits of the SHA-256 of the file."""
    return hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16]


class Judgements:
    """All that is known, by network and digest; what is new is added to a file line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        found = [Judgement(**json.loads(line)) for line in lines]
        self.known: dict[tuple[str, str], Judgement] = {judgement.key: judgement for judgement in found}

    def __getitem__(self, key: tuple[str, str]) -> Judgement:
        return self.known[key]

    def get(self, key: tuple[str, str]) -> Judgement | None:
        return self.known.get(key)

    def __contains__(self, key: tuple[str, str]) -> bool:
        return key in self.known

    def add(self, judgement: Judgement) -> None:
        self.known[judgement.key] = judgement
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(asdict(judgement)) + "\n")


class Judge:
    """Judges files of a network on its held-out images, each file once."""

    def __init__(self, network: Network, runtime: Runtime, judgements: Judgements) -> None:
        self.network, self.runtime, self.judgements = network, runtime, judgements
        self.held_out = HeldOut(network, runtime)

    def __call__(self, models: Mapping[str, onnx.ModelProto]) -> None:
        """Judge the files, by digest, that nobody judged yet, and the original: one pass over the images for all."""
        name = self.network.name
        fresh = {key: model for key, model in models.items() if (name, key) not in self.judgements}
        sessions = {key: self.runtime.session(model, spin=False) for key, model in fresh.items()}
        if (name, FP32) not in self.judgements:
            sessions[FP32] = self.runtime.session(self.network.model, spin=False)
        if sessions:
            for judgement in self._judged(sessions):
                self.judgements.add(judgement)

    def _judged(self, sessions: Mapping[str, Session]) -> Iterator[Judgement]:
        hits: dict[str, list[Hits]] = {key: [] for key in sessions}
        kl = dict.fromkeys(sessions, 0.0)
        for key, expected, got, labels in self.held_out.outputs(sessions):
            hits[key].append(classes(got) == labels)
            kl[key] += float(kl_divergence(expected, got, OutputKind.LOGITS).sum())
        count = self.held_out.images.count
        for key, found in hits.items():
            yield Judgement(self.network.name, key, count, kl[key] / count, packed(np.concatenate(found)))


def mean_hits(judgements: Sequence[Judgement]) -> NDArray[np.float64]:
    """How often each image was right, over judgements of the same images."""
    mean: NDArray[np.float64] = np.mean([judgement.hits for judgement in judgements], axis=0)
    return mean
