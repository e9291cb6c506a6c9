"""The architecture, held by a test: imports go down only, and each heavy package has one door."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    ".".join(("onnxmpq", *path.relative_to(ROOT / "onnxmpq").with_suffix("").parts)).removesuffix(
        ".__init__"
    ): path
    for path in sorted((ROOT / "onnxmpq").rglob("*.py"))
}
DOORS = {
    "onnxruntime": {"onnxmpq.engine"},
    "cvxpy": {"onnxmpq.allocation.allocate"},
    "rich": {"onnxmpq.display"},
}
DOORS |= {"click": {"onnxmpq.cli"}, "PIL": {"onnxmpq.data.images", "onnxmpq.data.preprocess"}}
LEAVES = {"onnxmpq.errors", "onnxmpq.spec"}
STOREYS = (  # as the design draws the house, top first
    ("cli",), ("pipeline",), ("stages",), ("request", "verdict", "report", "testing"),
    ("allocation", "activations", "sensitivity", "weights"), ("discover", "passes", "engine", "data"),
    ("target", "plan", "budget", "weights.quantizer", "weights.bitpack"), ("spec", "errors"),
)  # fmt: skip
NUMBERS_ONLY = {
    "onnxmpq.allocation.allocate",
    "onnxmpq.weights.quantizer",
    "onnxmpq.weights.bitpack",
    "onnxmpq.budget",
    "onnxmpq.plan",
}


def imports(path: Path, *, types: bool = False) -> Iterator[str]:
    """Absolute names of the modules that a file imports, those under TYPE_CHECKING only where `types`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = set() if types else {id(n) for b in ast.walk(tree) if _is_typing_block(b) for n in ast.walk(b)}
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            yield node.module or ""


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


GRAPH = {name: {i for i in imports(path) if i in MODULES} - {name} for name, path in MODULES.items()}


def above(name: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """Everything that a module reaches by imports."""
    for lower in GRAPH[name] - seen:
        seen = above(lower, seen | {lower})
    return seen


@pytest.mark.parametrize("name", MODULES)
def test_imports_go_down_only(name: str) -> None:
    assert name not in above(name), f"{name} imports itself by way of others"


def storey(name: str) -> int | None:
    """The number of a module's storey from the top; None for a module that the design does not name."""
    parts = name.split(".")[1:3]
    named = {part: i for i, names in enumerate(STOREYS) for part in names}
    return named.get(".".join(parts), named.get(parts[0] if parts else ""))


def test_no_storey_stands_on_a_higher_one() -> None:
    for name in MODULES:
        mine = storey(name)
        higher = {i for i in above(name) if mine is not None and (storey(i) or mine) < mine}
        assert not higher, f"{name} stands on {higher}"


def test_each_heavy_package_has_one_door() -> None:
    for package, doors in DOORS.items():
        users = {
            name for name, path in MODULES.items() for i in imports(path) if i.partition(".")[0] == package
        }
        assert users <= doors, f"{package} is imported by {users - doors}"


def test_the_floor_knows_nobody() -> None:
    for name in LEAVES:
        assert above(name) <= LEAVES, f"{name} imports {above(name) - LEAVES}"


def test_numbers_know_no_graph() -> None:
    for name in NUMBERS_ONLY:
        found = {i for i in imports(MODULES[name]) if i.partition(".")[0] in {"onnx", "onnx_graphsurgeon"}}
        assert not found, f"{name} imports {found}"


def test_passes_take_values_only() -> None:
    forbidden = {
        "onnxmpq.engine",
        "onnxmpq.model.modelfile",
        "onnxmpq.data",
        "onnxmpq.pipeline",
        "onnxmpq.model.outfile",
    }
    for name in MODULES:
        if name.startswith("onnxmpq.passes."):
            assert not above(name) & forbidden, f"{name} reaches {above(name) & forbidden}"


def test_nothing_stands_on_the_pipeline_but_the_command() -> None:
    users = {name for name, lower in GRAPH.items() if "onnxmpq.pipeline" in lower}
    assert users <= {"onnxmpq.cli"}
    stages = {name for name in MODULES if name.startswith("onnxmpq.stages")}
    assert {name for name, lower in GRAPH.items() if lower & stages} <= {"onnxmpq.pipeline", *stages}
    assert {name for name, lower in GRAPH.items() if "onnxmpq.cli" in lower} <= {"onnxmpq.__main__"}
    assert {name for name, lower in GRAPH.items() if "onnxmpq.display" in lower} <= {"onnxmpq.cli"}


def test_no_module_is_a_drawer() -> None:
    parts = {part for name in MODULES for part in name.split(".")}
    assert not parts & {"utils", "util", "common", "core", "base", "helpers", "misc"}
