"""What every test and docstring example can rely on."""

import pytest

from vtc_lab.reduce.registry import _METHODS


@pytest.fixture(autouse=True)
def registry_as_before():
    """A method that a test or an example registers is gone after it."""
    before = dict(_METHODS)
    yield
    _METHODS.clear()
    _METHODS.update(before)
