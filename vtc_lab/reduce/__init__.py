"""Reduction methods, one file each. A file put into this folder registers its method by itself."""

from importlib import import_module
from pkgutil import iter_modules

from vtc_lab.reduce.registry import get_method, method, methods, reduce

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__ = ["get_method", "method", "methods", "reduce"]
