"""What every test and docstring example can rely on."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

# Tests reduce small tensors, for which a second thread only waits; set before torch starts, kernels inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

from vtc_lab.reducers.registry import _METHODS  # noqa: E402

# Its modules import the tools that they are for, which have environments of their own.
collect_ignore = [] if find_spec("lmms_eval") else ["vtc_lab/integrations"]


@pytest.fixture(autouse=True)
def registry_as_before() -> Iterator[None]:
    """A method that a test or an example registers is gone after it."""
    before = dict(_METHODS)
    yield
    _METHODS.clear()
    _METHODS.update(before)
