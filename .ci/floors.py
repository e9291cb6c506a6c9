"""Print the lowest versions that pyproject.toml allows, as a requirements file: those of the package and of the extras named."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
for requirement in project["dependencies"] + [
    one for extra in sys.argv[1:] for one in project["optional-dependencies"][extra]
]:
    print(requirement.replace(">=", "==", 1))
