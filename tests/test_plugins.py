from __future__ import annotations

import sys
from collections.abc import Iterator
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


@pytest.fixture
def untouched() -> Iterator[None]:
    """What Python looks modules up in is the same before and after."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    assert sys.path == path
    assert dict(sys.modules) == modules


def write(folder: Path, **files: str) -> Path:
    """A folder of Python files by name; the path of the plug-in in it, `mine.py`."""
    folder.mkdir(exist_ok=True)
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / "mine.py"


def test_files_beside_a_plug_in_are_imported_in_every_form(tmp_path: Path) -> None:
    path = list(sys.path)
    mine = write(
        tmp_path,
        mine="import helper\nimport helper as other\nfrom helper import f as g\n"
        "def f(): return helper.f(), other.f(), g(), other is helper",
        helper="import deeper\ndef f(): return deeper.value",
        deeper="value = 3",
    )
    assert load_attribute(f"{mine}:f")() == (3, 3, 3, True)
    assert sys.path == path
    assert "helper" not in sys.modules


def test_files_that_import_each_other(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        mine="import a\ndef f(): return a.f()",
        a="import b\ndef f(): return b.g()\nx = 1",
        b="import a\ndef g(): return a.x",
    )
    assert load_attribute(f"{mine}:f")() == 1


def test_dataclasses_of_a_file_beside_a_plug_in(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        mine="from helper import C\nc = C()",
        helper="from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\n@dataclass\nclass C:\n    name: ClassVar[str] = 'c'\n    x: int = 3",
    )
    assert load_attribute(f"{mine}:c").x == 3


def test_two_plug_ins_have_files_of_their_own_now_and_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    early = "import helper\ndef f():\n    import later\n    return helper.value, later.value"
    found = [
        load_attribute(
            f"{write(tmp_path / n, mine=early, helper=f'value = {n!r}', later=f'value = {n!r}')}:f"
        )
        for n in "ab"
    ]
    monkeypatch.chdir(tmp_path / "a")
    monkeypatch.syspath_prepend("")  # as `python -m` does
    assert [f() for f in found] == [("a", "a"), ("b", "b")]
    assert not {"helper", "later"} & sys.modules.keys()


def test_what_is_installed_is_not_shadowed(tmp_path: Path) -> None:
    fake = "value = 'fake'"
    mine = write(
        tmp_path, mine="import json, wave, numpy, onnxmpq\ndef f(): return json, wave, numpy, onnxmpq",
        json=fake, wave=fake, numpy=fake, onnxmpq=fake, sys=fake, builtins=fake,
    )  # fmt: skip
    found = load_attribute(f"{mine}:f")()
    assert [module.__name__ for module in found] == ["json", "wave", "numpy", "onnxmpq"]


def test_a_file_is_run_anew_with_those_beside_it(tmp_path: Path) -> None:
    for value in (1, 22):
        mine = write(tmp_path, mine="import helper\nx = helper.value", helper=f"value = {value}")
        assert load_attribute(f"{mine}:x") == value


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"mine": "import helper\n1 / 0", "helper": "x = 1"}, "ZeroDivisionError"),
        ({"mine": "import helper", "helper": "import deeper\n1 / 0", "deeper": ""}, "ZeroDivisionError"),
        ({"mine": "import helper", "helper": "1 +"}, "SyntaxError"),
        ({"mine": "import nowhere"}, "No module named 'nowhere'"),
        ({"mine": "import helper\nx = 1", "helper": ""}, "has no 'f'; define it there|nearest"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_a_plug_in_that_fails_leaves_nothing(tmp_path: Path, files: dict[str, str], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        load_attribute(f"{write(tmp_path, **files)}:f")


def test_a_plug_in_that_fails_leaves_what_was_loaded_before(tmp_path: Path) -> None:
    mine = write(tmp_path, mine="class C: ...")
    loaded = load_attribute(f"{mine}:C")
    write(tmp_path, mine="1 / 0")
    with pytest.raises(OptionError, match="ZeroDivisionError"):
        load_attribute(f"{mine}:C")
    assert sys.modules[loaded.__module__].C is loaded


def test_a_plug_in_may_do_without_a_file_that_fails(tmp_path: Path) -> None:
    mine = write(
        tmp_path,
        mine="try:\n    import helper\nexcept ZeroDivisionError:\n    helper = None\ndef f(): return helper",
        helper="1 / 0",
    )
    assert load_attribute(f"{mine}:f")() is None
    assert str(tmp_path.resolve() / "helper.py") not in sys.modules


def test_a_folder_of_the_same_name_in_the_working_directory_hides_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere" / "helper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.syspath_prepend("")  # as `python -m` does
    mine = write(tmp_path / "plug_in", mine="import helper\nx = helper.value", helper="value = 3")
    assert load_attribute(f"{mine}:x") == 3
