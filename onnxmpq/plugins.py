"""Load what a user names as `file.py:name` or `module:name`."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from onnxmpq.errors import MissingFileError, OptionError, nearest

_REFERENCE = re.compile(r"(?P<place>.+\.py|[A-Za-z_][\w.]*):(?P<name>[A-Za-z_]\w*)")


def is_reference(text: str) -> bool:
    """True where `text` has the form `file.py:name` or `module:name`."""
    return _REFERENCE.fullmatch(text) is not None


def load_attribute(text: str) -> Any:
    """The object that `file.py:name` (a path) or `module:name` (importable) stands for.

    Raises OptionError where it does not load or has no such name, MissingFileError where there is no such file.
    """
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise OptionError(f"{text!r} names nothing that can be loaded; write file.py:name or module:name")
    place, name = match["place"], match["name"]
    if place.endswith(".py") and not Path(place).is_file():
        raise MissingFileError(f"there is no file {place}, named in {text!r}")
    try:
        module = _load_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise OptionError(f"{place} does not load: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        public = [known for known in vars(module) if not known.startswith("_")]
        raise OptionError(f"{place} has no {name!r}; {nearest(name, public) or 'define it there'}")
    return getattr(module, name)


def _load_file(path: Path) -> ModuleType:
    """Run the file anew. It is registered while it runs and after: dataclasses look their module up."""
    name = str(path.resolve())  # unique, and no name that an import statement could mean
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
