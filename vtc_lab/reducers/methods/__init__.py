"""Published methods, one file each. A file put into this folder registers its method by itself."""

from importlib import import_module
from pkgutil import iter_modules

# The project's own method and the baselines come first in every table and menu.
for _name in ("methods.lftr", "baselines", *(f"methods.{module.name}" for module in iter_modules(__path__))):
    import_module(f"vtc_lab.reducers.{_name}")
