"""Reduction methods, one file each. A file put into this folder registers its method by itself."""

from importlib import import_module
from pkgutil import iter_modules

from vtc_lab.reduce.registry import get_method, method, methods, reduce

# The project's own method and the floor come first in every table and menu.
for _name in ("lftr", "floor", *(module.name for module in iter_modules(__path__))):
    import_module(f"{__name__}.{_name}")

__all__ = ["get_method", "method", "methods", "reduce"]
