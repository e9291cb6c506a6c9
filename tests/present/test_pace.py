"""How long a compile will take yet: by its pace so far, and by a stage's own once that tells."""

import pytest

from onnxmpq.present.pace import Pace

WORK = {"calibrate": 10.0, "round": 50.0, "sensitivity": 40.0}


def begun() -> Pace:
    """Calibrated in 2 s, and told the work."""
    pace = Pace()
    pace.begin("load", 0.0)
    pace.begin("calibrate", 1.0)
    pace.end(3.0)
    pace.work = WORK
    return pace


def test_nothing_is_known_before_any_work_is_done() -> None:
    pace = Pace()
    assert pace.left(1.0) is None
    assert pace.done() == 0
    pace.work = WORK
    pace.begin("round", 0.0)
    assert pace.left(5.0) is None


def test_stages_to_come_go_at_the_pace_of_those_that_ended() -> None:
    pace = begun()
    assert pace.left(3.0) == pytest.approx(18)
    pace.begin("round", 3.0)
    assert pace.left(4.0) == pytest.approx(18 - 1)
    assert pace.done() == pytest.approx(0.1)


def test_a_stage_goes_at_its_own_pace_once_that_tells() -> None:
    pace = begun()
    pace.begin("round", 3.0)
    pace.progress(1, 2)
    assert pace.left(13.0) == pytest.approx(10 + 40 * 12 / 35)
    assert pace.done() == pytest.approx(0.35)


def test_stages_that_were_not_expected_take_no_time_and_what_was_passed_over_does_not_come() -> None:
    pace = begun()
    pace.begin("allocate", 3.0)
    assert pace.left(3.5) == pytest.approx(18)
    pace.begin("sensitivity", 4.0)
    pace.progress(1, 1)
    assert pace.left(10.0) == pytest.approx(0)
    assert pace.done() == pytest.approx(1)


def test_a_stage_of_nothing_to_do_is_no_division_by_it() -> None:
    pace = begun()
    pace.begin("round", 3.0)
    pace.progress(0, 0)
    assert pace.done() == pytest.approx(0.1)
