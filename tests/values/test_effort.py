"""Efforts: found by name, growing, and their estimates in words."""

import pytest

from onnxmpq.errors import OptionError
from onnxmpq.values.effort import find_effort


def test_an_unknown_effort_names_the_nearest() -> None:
    with pytest.raises(OptionError, match="balanced"):
        find_effort("ballanced")


def test_an_effort_of_an_earlier_version_goes_on_working() -> None:
    assert find_effort("max") is find_effort("balanced")
