from dataclasses import replace

import pytest

from onnxmpq.forecast.cost_model import Pace, Search, StageCost, stage_costs
from onnxmpq.values.layer import Layer, matrix

PACE = Pace(run=1e-10, rounding=1e-9, start=1.0, link=1e9)


def search(samples: int = 512, depth: int = 8) -> Search:
    layers = [
        Layer(f"l{i}", "MatMul", (f"l{i}",), f"w{i}", (256, 256), matrix(1), macs=256 * 256)
        for i in range(depth)
    ]
    widths = {layer.name: (2, 4, 8) for layer in layers}
    return Search(layers, widths, samples, 64, 2 * depth, 8, 1024, 4 * 256 * 256 * depth)


def test_seconds_of_moments_and_rounding_grow_with_samples_and_layers() -> None:
    small, large = stage_costs(search(), PACE), stage_costs(search(2048, 16), PACE)
    assert large[0].forwards == 4 * small[0].forwards  # no map is large
    assert large[1].seconds == pytest.approx(2 * small[1].seconds)
    assert large[2].forwards > small[2].forwards  # as many samples, twice the changes


def test_more_workers_take_less_time_until_the_link_is_full() -> None:
    stage = StageCost("moments", 512, 100.0, 64, 10**8, 10**9)
    times = [stage.wall(workers, PACE) for workers in (1, 2, 64)]
    assert times == pytest.approx([1 + 0.1 + 100, 1 + 0.2 + 50, 1 + 0.7 + 100 / 64])
    full = replace(stage, moved=10**10)
    assert full.wall(64, PACE) == pytest.approx(1 + 0.7 + 10)
    assert stage.wall(1000, PACE) == times[2]  # there are no more pieces


def test_a_stage_of_few_batches_is_cut_for_many_workers_and_its_prefixes_count() -> None:
    one, many = (stage_costs(search(), PACE, workers)[-1] for workers in (1, 64))
    assert one.pieces == 8
    assert many.pieces == 64
    assert many.forwards > one.forwards
    slow = replace(PACE, run=1e-6)
    assert many.wall(64, PACE) > one.wall(64, PACE)  # it is not worth sending
    one, many = (stage_costs(search(), slow, workers)[-1] for workers in (1, 64))
    assert many.wall(64, slow) < one.wall(64, slow)
