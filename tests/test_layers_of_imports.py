"""The architecture, held by a test: who may import whom, and each heavy package has one door.

A room is a folder, or a module that the table names. The table stands in order, from the ground up: a room imports those
that it names, all of which stand above it in the table. A stage's entrance (`FOLDER.stage`) is a room of its own: it
knows what stages hand on (`context`), which what it is made of does not.
"""

import ast
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import onnxmpq

ROOT = Path(__file__).parents[1]
ROOMS: Mapping[str, str] = {
    # values, and what everybody may know
    "errors": "",
    "observer": "",
    "plugins": "errors",
    "values": "errors plugins",
    "budgets": "errors values",
    # graphs, and what is known of operators
    "passes": "values",
    "passes.gradients": "values passes",
    "operators": "values passes",
    "passes.normalize": "errors values passes operators",
    "onnx_io": "errors values operators",
    "passes.expose": "errors values passes passes.gradients operators",
    "passes.lower": "errors values passes operators onnx_io",
    # what runs them, on what, and how it is judged
    "runtime": "errors values onnx_io",
    "data": "errors plugins values onnx_io runtime",
    "metrics": "errors plugins values runtime data",
    # what the stages are made of
    "place": "errors values passes operators metrics",
    "calibrate": "errors observer plugins values passes onnx_io passes.expose runtime data metrics",
    "rounding": "observer values onnx_io passes.expose passes.lower runtime data",
    "sensitivity": "errors observer plugins values passes.normalize onnx_io passes.expose passes.lower runtime data metrics",
    "allocate": "errors values budgets",
    "search": "",
    "timing": "errors values operators onnx_io runtime metrics",
    # what is asked, and what stages hand on
    "request": "errors values budgets data calibrate rounding sensitivity",
    "context": "errors observer values budgets onnx_io runtime data metrics place request",
    "normalize": "errors values passes operators passes.normalize onnx_io runtime metrics context",
    "lower": "errors values passes onnx_io passes.lower runtime metrics rounding context normalize",
    "requantize": "observer values operators onnx_io passes.expose runtime data metrics rounding lower",
    "verify": "errors values onnx_io runtime data metrics rounding context normalize",
    # the stages' entrances, in the order of the pipeline
    "load": "",
    "load.stage": "errors observer onnx_io runtime data request context normalize",
    "normalize.stage": "errors values budgets data metrics sensitivity context normalize",
    "place.stage": "values onnx_io place rounding context",
    "check": "",
    "check.stage": "values place allocate request context normalize lower place.stage",
    "calibrate.stage": "errors values onnx_io data place calibrate context normalize lower place.stage check.stage",
    "rounding.stage": "values runtime data rounding context lower",
    "sensitivity.stage": "errors values onnx_io rounding sensitivity request context check.stage",
    "timing.stage": "errors values timing lower",
    "requantize.stage": "values allocate rounding context lower requantize",
    "allocate.stage": "observer values budgets allocate lower requantize.stage",
    "activations": "timing",
    "activations.stage": (
        "errors values data metrics sensitivity timing context lower rounding.stage sensitivity.stage allocate.stage "
        "allocate normalize onnx_io place activations"
    ),
    "search.stage": "values budgets metrics sensitivity allocate context lower sensitivity.stage allocate.stage",
    "forecast": "values rounding",
    "forecast.stage": "values request context rounding rounding.stage search.stage sensitivity sensitivity.stage",
    "verify.stage": "errors observer values budgets runtime data metrics rounding context normalize verify",
    # what users call
    "pipeline": (
        "observer values onnx_io runtime request context lower forecast.stage load.stage normalize.stage place.stage check.stage "
        "calibrate.stage rounding.stage sensitivity.stage timing.stage requantize.stage allocate.stage activations.stage "
        "search.stage "
        "verify.stage"
    ),
    "api": "observer values budgets data metrics calibrate rounding sensitivity request pipeline",
    "evaluation": "errors values onnx_io runtime data metrics normalize",
    "doctor": "runtime verify",
    "inspection": "values passes operators onnx_io runtime normalize verify",
    "": "",
    "testing": (
        "values operators onnx_io runtime data metrics place calibrate rounding sensitivity context normalize lower verify"
    ),
    "present": "observer values budgets",
    "commands": "errors values budgets onnx_io data metrics request api doctor evaluation inspection present",
    "endings": "onnx_io commands",
    "cli": "endings",
    "__main__": "cli",
}
DOORS = {
    "onnxruntime": {"onnxmpq.runtime.session"},
    "cvxpy": {"onnxmpq.allocate.knapsack"},
    "rich": {"onnxmpq.present.console"},
    "click": {"onnxmpq.commands"},
    "loky": {"onnxmpq.runtime.ordered_pool", "onnxmpq.runtime.local_workers"},
    "distributed": {"onnxmpq.runtime.cluster"},
    "PIL": {"onnxmpq.data.images", "onnxmpq.data.preprocess"},
}
NUMBERS_ONLY = ("onnxmpq.budgets", "onnxmpq.allocate.knapsack", "onnxmpq.values.plan", "onnxmpq.values.costs")


def modules() -> Iterator[tuple[str, Path]]:
    """Every module by its name; `onnxmpq/passes` is a link, which `rglob` does not follow."""
    for folder, package in ((ROOT / "onnxmpq", "onnxmpq"), (ROOT / "passes", "onnxmpq.passes")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


MODULES = dict(modules())


def imports(path: Path) -> Iterator[str]:
    """Absolute names of what a file imports, those for type checkers alone left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {id(n) for b in ast.walk(tree) if _is_typing_block(b) for n in ast.walk(b)}
    for node in (node for node in ast.walk(tree) if id(node) not in skipped):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else module for name in names)


def _is_typing_block(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def room(module: str) -> str | None:
    """The room of a module: the longest name in the table that it is, or lies in; None where there is none."""
    inner = module.removeprefix("onnxmpq").removeprefix(".")
    if not inner:
        return ""
    named = [name for name in ROOMS if name and f"{inner}.".startswith(f"{name}.")]
    return max(named, key=len, default=None)


def test_every_module_is_walked() -> None:
    found = {info.name for info in pkgutil.walk_packages(onnxmpq.__path__, "onnxmpq.")}
    assert set(MODULES) == {"onnxmpq", *found}
    assert sum(name.startswith("onnxmpq.passes.") for name in MODULES) > 50


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_what_its_room_may(module: str) -> None:
    mine = room(module)
    assert mine is not None, f"{module} lies in no room of the table: give it one"
    allowed = {mine, *ROOMS[mine].split()}
    found = {room(name): name for name in imports(MODULES[module]) if name.split(".")[0] == "onnxmpq"}
    outside = {name for theirs, name in found.items() if theirs not in allowed}
    assert not outside, f"{module} ({mine}) imports {sorted(outside)}"


def test_imports_go_one_way() -> None:
    above: set[str] = set()
    for name, allowed in ROOMS.items():
        assert set(allowed.split()) <= above, f"{name} imports {set(allowed.split()) - above} below it"
        above.add(name)


def test_nothing_is_allowed_that_nobody_imports() -> None:
    used = {(room(module), room(name)) for module, path in MODULES.items() for name in imports(path)}
    idle = {(mine, name) for mine, allowed in ROOMS.items() for name in allowed.split()} - used
    assert not idle


def test_each_heavy_package_has_one_door() -> None:
    for package, doors in DOORS.items():
        users = {m for m, path in MODULES.items() for i in imports(path) if i.partition(".")[0] == package}
        assert users <= doors, f"{package} is imported by {users - doors}"


def test_numbers_know_no_graph() -> None:
    for module, path in MODULES.items():
        if module.startswith(NUMBERS_ONLY):
            found = {i for i in imports(path) if i.partition(".")[0] in {"onnx", "onnx_graphsurgeon"}}
            assert not found, f"{module} imports {found}"


def test_no_module_is_a_drawer() -> None:
    parts = {part for name in MODULES for part in name.split(".")}
    assert not parts & {"utils", "util", "common", "core", "base", "helpers", "misc"}
