"""Tests speak of behaviour: one that reaches into a private says why beside it, in a comment `# private: ...`."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
PRIVATE = re.compile(r"(\w+\.)*_[A-Za-z]\w*(\.\w+)*")  # dunders and `_` alone are nobody's
REASON = re.compile(r"# private: \w")
SETTERS = {"setattr", "getattr", "delattr"}  # a function, or a method of monkeypatch


def names(node: ast.AST) -> Iterator[str]:
    """What a node takes from somebody else by its name."""
    match node:
        case ast.Attribute(value=ast.Name(id="self" | "cls")):
            return
        case ast.Attribute(attr=str(name)) | ast.alias(name=str(name)) | ast.ImportFrom(module=str(name)):
            yield name
        case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called in SETTERS:
            yield from (str(arg.value) for arg in node.args if isinstance(arg, ast.Constant))


def reaches(node: ast.AST, defs: tuple[int, ...] = ()) -> Iterator[tuple[int, str, tuple[int, ...]]]:
    """(line, name, lines that may give the reason) of every private below a node: its own, the one above, its functions'."""
    for child in ast.iter_child_nodes(node):
        last = isinstance(child, ast.Attribute)  # in a chain of calls the name stands on its last line
        line = getattr(child, "end_lineno" if last else "lineno", 0)
        yield from ((line, name, (line - 1, line, *defs)) for name in names(child) if PRIVATE.fullmatch(name))
        yield from reaches(child, (*defs, line) if isinstance(child, ast.FunctionDef) else defs)


def unexplained(source: str) -> list[str]:
    """The privates that a file names without a reason, each behind its line."""
    lines = ["", *source.splitlines()]
    found = reaches(ast.parse(source))
    bare = (f for f in found if not any(REASON.search(lines[at]) for at in f[2]))
    return [f"{line}: {name}" for line, name, _ in bare]


def test_a_private_is_touched_for_a_written_reason() -> None:
    found = {
        str(path.relative_to(TESTS)): unexplained(path.read_text("utf-8")) for path in TESTS.rglob("*.py")
    }
    assert len(found) > 100
    assert {path: privates for path, privates in found.items() if privates} == {}


@pytest.mark.parametrize(
    "line",
    [
        "from onnxmpq.data import _hidden", "import onnxmpq._hidden", "from onnxmpq._hidden import shown",
        "shown._hidden()", "cls.shown._hidden = 1", "monkeypatch.setattr(shown, '_HIDDEN', 1)",
        "monkeypatch.setattr('onnxmpq.shown._hidden', 1)", "getattr(shown, '_hidden')",
    ],
)  # fmt: skip
def test_a_private_wants_a_reason_on_its_line_the_one_above_or_its_test_s(line: str) -> None:
    assert len(unexplained(line)) == 1
    assert unexplained(f"# private\n\n{line}  # private:") != []
    assert unexplained(f"{line}  # private: no other way") == []
    assert unexplained(f"# private: no other way\n{line}") == []
    assert unexplained(f"def test() -> None:  # private: no other way\n    x = 1\n    {line}") == []


@pytest.mark.parametrize(
    "line",
    [
        "self._own = cls._own",
        "_local = _function(_local)",
        "a.__dict__",
        "f(lambda _: _, '_suffix')",
        "a.b_c",
    ],
)
def test_what_is_no_private_of_another_wants_none(line: str) -> None:
    assert unexplained(line) == []
