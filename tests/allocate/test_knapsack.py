import itertools
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onnxmpq.allocate import knapsack
from onnxmpq.allocate.knapsack import Table, allocate, check_feasible, forced_choice
from onnxmpq.budgets.row import Row
from onnxmpq.errors import InfeasibleError


def by_dynamic_programming(costs: list[list[float]], use: list[list[int]], limit: int) -> float:
    """Least total cost within one integer row: the textbook recursion over what is left."""
    best = {limit: 0.0}
    for options, uses in zip(costs, use, strict=True):
        nxt: dict[int, float] = {}
        for left, cost in best.items():
            for c, u in zip(options, uses, strict=True):
                if u <= left:
                    nxt[left - u] = min(nxt.get(left - u, float("inf")), cost + c)
        best = nxt
    return min(best.values())


FORKED = """
import os, sys
from onnxmpq.allocate.knapsack import allocate
from onnxmpq.budgets.row import Row

def solved():
    return allocate([[3.0, 1.0], [5.0, 2.0]], [Row("bytes", ((1.0, 2.0), (1.0, 2.0)), 3.0)])

first = solved()
child = os.fork()
if child == 0:
    os._exit(0 if solved() == first else 1)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_process_solves_too() -> None:
    assert subprocess.run([sys.executable, "-c", FORKED], timeout=60, check=False).returncode == 0


def row(use: list[list[int]], limit: float, name: str = "bytes") -> Row:
    return Row(name, tuple(tuple(map(float, options)) for options in use), float(limit))


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[float]], list[list[int]], int]:
    groups = draw(st.integers(1, 8))
    sizes = [draw(st.integers(1, 5)) for _ in range(groups)]
    costs = [[draw(st.floats(0, 1e-3)) for _ in range(n)] for n in sizes]
    use = [[draw(st.integers(1, 40)) for _ in range(n)] for n in sizes]
    least, most = sum(map(min, use)), sum(map(max, use))
    return costs, use, draw(st.integers(least, most))


@settings(max_examples=60, deadline=None)
@given(problems())
@example(([[8e-4, 5e-4], [0.0, 1e-11, 8e-4]], [[1, 2], [2, 1, 1]], 3))
def test_is_exact(problem: tuple[list[list[float]], list[list[int]], int]) -> None:
    costs, use, limit = problem
    choice = allocate(costs, [row(use, limit)])
    assert row(use, limit).holds(choice)
    total = sum(options[i] for options, i in zip(costs, choice, strict=True))
    tolerance = 1e-7 * max(map(max, costs))  # the solver's own
    assert total == pytest.approx(by_dynamic_programming(costs, use, limit), rel=1e-6, abs=tolerance)


def test_is_exact_where_costs_are_tiny() -> None:
    costs = [[1e-9 * 4.0**-b * (1 + (7 * g) % 5) for b in range(2, 7)] for g in range(60)]
    use = [[b * (10 + (3 * g) % 11) for b in range(2, 7)] for g in range(60)]
    limit = int(sum(options[2] for options in use))
    choice = allocate(costs, [row(use, limit)])
    total = sum(options[i] for options, i in zip(costs, choice, strict=True))
    assert total == pytest.approx(by_dynamic_programming(costs, use, limit), rel=1e-9)


def test_every_row_holds() -> None:
    costs = [[4.0, 2.0, 1.0]] * 3
    first, second = row([[1, 2, 4]] * 3, 8, "bytes"), row([[9, 3, 1]] * 3, 15, "time")
    choice = allocate(costs, [first, second])
    assert first.holds(choice)
    assert second.holds(choice)
    feasible = [c for c in itertools.product(range(3), repeat=3) if first.holds(c) and second.holds(c)]
    assert sum(costs[0][i] for i in choice) == min(sum(costs[0][i] for i in c) for c in feasible)


def test_says_the_least_that_can_be_met() -> None:
    with pytest.raises(InfeasibleError, match=r"bytes cannot be met: the smallest this model gets is 6$"):
        check_feasible([row([[2, 4]] * 3, 5)])


def test_names_what_would_help_and_nothing_else() -> None:
    looser = [
        ("without this", [row([[1, 2]] * 3, 5)]),
        ("without that", [row([[2, 2]] * 3, 5)]),
    ]
    with pytest.raises(InfeasibleError, match=r"gets is 6; without this it is 3$"):
        check_feasible([row([[2, 4]] * 3, 5)], looser)


def test_what_would_help_is_not_looked_for_in_vain() -> None:
    looser = iter([("without this", [row([[1, 2]] * 3, 5)])])
    check_feasible([row([[2, 4]] * 3, 6)], looser)
    assert len(list(looser)) == 1


def test_says_when_budgets_contradict_each_other() -> None:
    rows = [row([[1, 9]] * 2, 4, "bytes"), row([[9, 1]] * 2, 4, "time")]
    with pytest.raises(InfeasibleError, match="cannot be met together"):
        allocate([[1.0, 1.0]] * 2, rows)


def test_nothing_to_choose() -> None:
    assert allocate([], []) == ()


def test_a_choice_is_forced_from_above_and_from_below() -> None:
    costs, use = [[0.0] * 3] * 2, [[2, 4, 8]] * 2
    assert forced_choice(costs, [row(use, 16)]) == (2, 2)
    assert forced_choice(costs, [row(use, 4)]) == (0, 0)
    assert forced_choice(costs, [row(use, 5)]) == (0, 0)
    assert forced_choice(costs, [row(use, 6)]) is None


def test_what_one_budget_forces_and_another_forbids_is_no_choice() -> None:
    rows = [row([[1, 2]] * 2, 2, "bytes"), row([[5, 1]] * 2, 4, "time")]
    assert forced_choice([[0.0] * 2] * 2, rows) is None


def test_where_nothing_costs_anything_options_are_as_wide_as_fits() -> None:
    assert allocate([[0.0] * 3] * 2, [row([[1, 2, 4]] * 2, 6)]) in {(1, 2), (2, 1)}


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    row = Row("bits", ((1.0, 2.0), (1.0, 2.0)), 3.0)
    allocate(((2.0, 1.0), (3.0, 1.0)), (row,))
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("over", [1e-8, 3e-8, 1e-7, 3e-7, 1e-6])
@pytest.mark.parametrize("seed", range(4))
def test_a_plan_that_is_over_by_less_than_the_solver_usually_tells_is_not_taken(
    over: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    use = np.sort(rng.uniform(1e5, 1e7, (6, 4)), axis=1).tolist()
    costs = np.sort(rng.uniform(0, 1, (6, 4)), axis=1)[:, ::-1].tolist()
    wide = Row("bytes", tuple(map(tuple, use)), sum(options[2] for options in use))
    best = wide.used(allocate(costs, [wide]))
    tight = replace(wide, limit=best / (1 + over))
    assert tight.holds(allocate(costs, [tight]))


def test_a_cost_that_no_optimum_takes_does_not_set_the_scale_of_all() -> None:
    costs = [[1e-9 * 4.0**-b * (1 + (7 * g) % 5) for b in range(2, 7)] for g in range(20)]
    use = [[b * (10 + (3 * g) % 11) for b in range(2, 7)] for g in range(20)]
    limit = int(sum(options[2] for options in use))
    plain = sum(options[i] for options, i in zip(costs, allocate(costs, [row(use, limit)]), strict=True))
    costs[3][0] = 1e9
    found = allocate(costs, [row(use, limit)])
    assert sum(options[i] for options, i in zip(costs, found, strict=True)) == pytest.approx(plain, rel=1e-6)


def test_a_process_s_first_solve_prints_nothing() -> None:
    """HiGHS 1.16 prints its name once a process."""
    solve = (
        "from onnxmpq.allocate.knapsack import allocate; from onnxmpq.budgets.row import Row;"
        "assert allocate([[2.0, 1.0], [1.5, 0.5]], [Row('bytes', ((1.0, 2.0), (1.0, 2.0)), 3.0)])"
    )
    done = subprocess.run([sys.executable, "-c", solve], capture_output=True, text=True, check=True)
    assert done.stdout + done.stderr == ""


def test_what_other_threads_print_meanwhile_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    solved, lines = Event(), list[str]()

    def speak() -> None:
        while not solved.is_set():
            lines.append(f"line {len(lines)}\n")
            os.write(1, lines[-1].encode())

    thread = Thread(target=speak)
    thread.start()
    costs = [[1e-3 * 4.0**-b * (1 + (7 * g) % 5) for b in range(2, 7)] for g in range(60)]
    use = [[b * (10 + (3 * g) % 11) for b in range(2, 7)] for g in range(60)]
    allocate(costs, [row(use, int(sum(options[2] for options in use)))])
    solved.set()
    thread.join()
    assert capfd.readouterr().out == "".join(lines)


def many(groups: int, seed: int) -> tuple[Table, list[Row]]:
    """Costs and two budgets of so many layers with a dozen options each."""
    rng = np.random.default_rng(seed)
    bits, wide = np.array([2, 3, 4, 5, 6, 8] * 2), np.array([8] * 6 + [32] * 6)
    params = rng.lognormal(9, 1.5, (groups, 1))
    macs = params * rng.lognormal(4, 1.5, (groups, 1))
    costs = (
        rng.lognormal(0, 2, (groups, 1)) * 4.0**-bits * rng.lognormal(0, 0.2, (groups, 12)) * (1 + 2.4 / wide)
    )
    rows = [
        Row("bits", tuple(map(tuple, (params * bits).tolist())), float(4 * params.sum())),
        Row("work", tuple(map(tuple, (macs * bits * wide).tolist())), float(56 * macs.sum())),
    ]
    return tuple(map(tuple, costs.tolist())), rows


def spent(costs: Table, chosen: Sequence[int]) -> float:
    return sum(options[index] for options, index in zip(costs, chosen, strict=True))


@pytest.mark.parametrize("seed", [0, 1])
def test_of_many_options_the_core_is_searched_and_its_best_is_next_to_the_best_of_all(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    costs, rows = many(60, seed)
    found = allocate(costs, rows)
    assert all(row.holds(found) for row in rows)
    monkeypatch.setattr(knapsack, "_FEW_OPTIONS", 10_000)  # private: all are searched
    assert spent(costs, found) <= spent(costs, allocate(costs, rows)) * 1.001


def test_a_thousand_layers_are_allocated() -> None:
    costs, rows = many(1000, 0)
    found = allocate(costs, rows)
    assert all(row.holds(found) for row in rows)
    assert len(set(found)) > 6


def test_no_choice_is_found_among_many_options_where_there_is_none() -> None:
    costs, (first, _) = many(100, 0)
    most = max(map(max, first.use))
    other = Row("what is left", tuple(tuple(most - use for use in own) for own in first.use), 1.0)
    tight = [replace(row, limit=row.least() * 1.001) for row in (first, other)]
    with pytest.raises(InfeasibleError, match="cannot be met together"):
        allocate(costs, tight)
