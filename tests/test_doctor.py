import json
from importlib import metadata

import pytest
from click.testing import CliRunner

from onnxmpq import doctor
from onnxmpq.commands import cli
from onnxmpq.doctor import Finding, examine
from onnxmpq.runtime.session import Runtime


def found(name: str) -> Finding:
    return next(finding for finding in examine() if finding.name == name)


def test_both_packages_of_the_runtime_overwrite_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _name: "1.31.1")
    assert found("runtime packages").remedy is not None


@pytest.mark.parametrize(
    ("built", "driver", "got", "words", "is_well"),
    [
        (True, True, "cuda", "sessions get it", True),
        (True, True, "cpu", "no session gets CUDA", False),
        (True, False, "cpu", "no NVIDIA driver", True),
        (False, True, "cpu", "has no CUDA provider", True),
    ],
)
def test_the_provider_that_sessions_get(
    monkeypatch: pytest.MonkeyPatch,
    built: bool,
    driver: bool,
    got: str,
    words: str,
    is_well: bool,
) -> None:
    monkeypatch.setattr(doctor, "is_built_for_cuda", lambda: built)
    monkeypatch.setattr(doctor, "cuda_driver", lambda: object() if driver else None)
    monkeypatch.setattr(doctor, "resolve_runtime", lambda _asked: Runtime(got))
    finding = found("provider")
    assert words in finding.found
    assert (finding.remedy is None) == is_well


@pytest.mark.parametrize("vnni", [True, False])
def test_what_the_processor_is_good_for(monkeypatch: pytest.MonkeyPatch, vnni: bool) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(doctor, "has_vnni", lambda: vnni)
    assert (found("processor").remedy is None) == vnni


def test_the_command_prints_rows_or_json() -> None:
    plain = CliRunner().invoke(cli, ["doctor"])
    assert plain.exit_code == 0
    assert "processor" in plain.output
    rows = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).output)
    assert {"name", "found", "remedy"} == rows[0].keys()
