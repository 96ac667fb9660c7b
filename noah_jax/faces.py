"""The faces of packages whose parts are loaded when they are first used.

A program then loads no more than it needs. Above all `--help` need not wait for JAX.
"""

import pkgutil
from collections.abc import Callable, Mapping
from typing import Any


def face(package: str, places: Mapping[str, str]) -> Callable[[str], Any]:
    """Makes the `__getattr__` of a package.

    Args:
      places: where each of its names is, as `module:name`, inside the package.
    """

    def load(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return pkgutil.resolve_name(f"{package}.{places[name]}")

    return load
