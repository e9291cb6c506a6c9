from __future__ import annotations

from pathlib import Path

import pytest

from onnxmpq.errors import MissingFileError, OptionError
from onnxmpq.plugins import is_reference, load_attribute


@pytest.mark.parametrize("text", ["a.py:f", "/x y/a.py:f", "pkg.mod:f", "C:\\a\\b.py:f"])
def test_references(text: str) -> None:
    assert is_reference(text)


@pytest.mark.parametrize("text", ["a.npz", "a.py", "a.py:", "a.py:f()", "C:\\a\\b.npz", "pkg/mod:f"])
def test_no_references(text: str) -> None:
    assert not is_reference(text)
    with pytest.raises(OptionError, match=r"file\.py:name or module:name"):
        load_attribute(text)


def test_a_module() -> None:
    assert load_attribute("os.path:join")("a", "b") == str(Path("a", "b"))


def test_a_file_with_a_dataclass(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "@dataclass(frozen=True, slots=True)\nclass Mine:\n    name: ClassVar[str] = 'mine'\n    x: int = 3\n"
    )
    assert load_attribute(f"{file}:Mine")().x == 3


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, value in (("a", 1), ("b", 2)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "m.py").write_text(f"def f(): return value\nvalue = {value}\n")
    first, second = (load_attribute(f"{tmp_path / folder / 'm.py'}:f") for folder in "ab")
    assert (first(), second()) == (1, 2)


def test_what_does_not_load(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    with pytest.raises(MissingFileError, match=r"mine\.py"):
        load_attribute(f"{file}:f")
    file.write_text("def generate(): ...\n")
    with pytest.raises(OptionError, match="no 'generat'; nearest: generate"):
        load_attribute(f"{file}:generat")
    file.write_text("1 +\n")
    with pytest.raises(OptionError, match="SyntaxError"):
        load_attribute(f"{file}:f")
    with pytest.raises(OptionError, match="ModuleNotFoundError"):
        load_attribute("no_such_module:f")
    file.write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(OptionError, match="does not load: SystemExit: 3"):
        load_attribute(f"{file}:f")


def test_a_name_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("import os\ndef frames(): ...\n")
    with pytest.raises(OptionError, match="has no 'frmes'; nearest: frames"):
        load_attribute(f"{tmp_path / 'm.py'}:frmes")
    with pytest.raises(OptionError, match="has no 'builtins'; define it there"):
        load_attribute(f"{tmp_path / 'm.py'}:builtins")
