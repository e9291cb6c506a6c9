"""Load what a user names as `file.py:name` or `module:name`."""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

import cloudpickle

from onnxmpq.errors import MissingFileError, OptionError, nearest

_REFERENCE = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """True where `text` has the form `file.py:name` or `module:name`."""
    return _REFERENCE.fullmatch(text) is not None


def load_attribute(text: str) -> Any:
    """The object that `file.py:name` (a path) or `module:name` (importable) stands for.

    A file is run anew. It may import the files beside it by name, then or later, and they may import each other: each
    plug-in has its own, and what Python finds elsewhere (the standard library, installed packages) comes first. Folders
    beside it, relative imports and `importlib.import_module` find only what they find anywhere.

    Raises OptionError where it does not load or has no such name, MissingFileError where there is no such file. Of a file
    that fails nothing stays registered.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise OptionError(f"{text!r} names nothing that can be loaded; write file.py:name or module:name")
    place, name = match["place"], match["name"]
    if not place.endswith(".py"):
        return _attribute(place, name, lambda: importlib.import_module(place))
    if not Path(place).is_file():
        raise MissingFileError(f"there is no file {place}, named in {text!r}")
    path = Path(place).resolve()
    files = _Files(path.parent)
    try:
        return _attribute(place, name, lambda: files.load(path))
    except OptionError:
        files.forget()
        raise


def _attribute(place: str, name: str, load: Callable[[], ModuleType]) -> Any:
    try:
        module = load()
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise OptionError(f"{place} does not load: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise OptionError(f"{place} has no {name!r}; {nearest(name, public) or 'define it there'}")
    return getattr(module, name)


class _Files:
    """The modules made of one plug-in's file and of those beside it that it imports."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._modules, self._lock = folder, dict[Path, ModuleType](), RLock()
        self._before: dict[str, ModuleType | None] = {}  # what `sys.modules` had under their names

    def load(self, path: Path) -> ModuleType:
        """Run the file, once. It is registered while it runs and after: dataclasses look their module up."""
        with self._lock:
            if path in self._modules:
                return self._modules[path]
            name = str(path)  # unique, and no name that an import statement could mean
            spec = importlib.util.spec_from_file_location(name, path)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            # `exec` takes the builtins that it finds there, and import statements call the `__import__` of these.
            vars(module)["__builtins__"] = {**vars(builtins), "__import__": self._import}
            self._before.setdefault(name, sys.modules.get(name))
            self._modules[path] = sys.modules[name] = module
            cloudpickle.register_pickle_by_value(module)  # other processes have no module of that name
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del self._modules[path]
                cloudpickle.unregister_pickle_by_value(module)
                _restore(name, self._before[name])
                raise
            return module

    def forget(self) -> None:
        """Leave `sys.modules` as it was."""
        for name, module in self._before.items():
            _restore(name, module)

    def _import(
        self,
        name: str,
        caller: Mapping[str, object] | None = None,
        local: Mapping[str, object] | None = None,
        wanted: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """What the import statements of these files call: `__import__`, but for files beside them."""
        beside = self._folder / f"{name}.py"
        if level == 0 and beside.is_file() and not _is_elsewhere(name, self._folder):
            return self.load(beside)
        return builtins.__import__(name, caller, local, wanted, level)


def _restore(name: str, module: ModuleType | None) -> None:
    if module is None:
        sys.modules.pop(name, None)
    else:
        sys.modules[name] = module


def _is_elsewhere(name: str, folder: Path) -> bool:
    """True where Python knows the name, but for files of the working directory: `python -m` finds these, too."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module that was made by hand, such as `__main__`
        return True
    if spec is None:
        return False
    if spec.origin is None:  # a folder without `__init__.py`, which gives way to a file in Python, too
        return spec.submodule_search_locations is None
    return not spec.has_location or Path(spec.origin).resolve().parent not in (folder, Path.cwd())
