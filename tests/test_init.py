"""What `import onnxmpq` promises: every name, at once where it is asked for and not before."""

import pkgutil
import subprocess
import sys
import tomllib

import pytest
from shared import ROOT

import onnxmpq


@pytest.mark.parametrize("name", onnxmpq.__all__)
def test_every_exported_name_resolves(name: str) -> None:
    found = getattr(onnxmpq, name)
    assert found.__name__ == name
    assert found.__module__.startswith("onnxmpq.")


def test_no_name_is_missing_or_left_over() -> None:
    assert sorted(onnxmpq.__all__) == sorted(onnxmpq._HOMES)  # private: what is left over there shows nowhere
    assert {*onnxmpq.__all__} <= {*dir(onnxmpq)}
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = onnxmpq.nothing


def test_importing_loads_no_runtime() -> None:
    script = (
        "import sys, onnxmpq; print(sorted({'onnxruntime', 'onnx', 'numpy', 'cvxpy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_wheel_holds_every_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = {info.name for info in pkgutil.walk_packages(onnxmpq.__path__, "onnxmpq.") if info.ispkg}
    assert set(project["tool"]["setuptools"]["packages"]) == {"onnxmpq", *found}
