"""The face of a package: the names that it re-exports, each resolved when it is first asked for.

For packages whose modules differ in weight: whoever needs a light one does not load numpy through another.
"""

from collections.abc import Callable, Collection, Sequence
from importlib import import_module


def face(package: str, modules: Sequence[str], names: Collection[str]) -> Callable[[str], object]:
    """A `__getattr__` for `package`: each of `names` is in one of its `modules`, which stand lightest first."""

    def resolve(name: str) -> object:
        if name in names:
            for each in modules:
                module = import_module(f"{package}.{each}")
                if name in vars(module):
                    vars(import_module(package))[name] = value = vars(module)[name]
                    return value
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return resolve
