"""What every test and docstring example can rely on."""

import os
from collections.abc import Iterator
from importlib.util import find_spec

# Tests reduce small tensors, for which a second thread only waits; set before torch starts, kernels inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest  # noqa: E402

from vtc_lab.models.families import FAMILIES  # noqa: E402
from vtc_lab.reducers.registry import INSIDE, METHODS  # noqa: E402

# The same examples at every run, so that a change is judged by what it changes; `make fuzz` draws new ones.
if find_spec("hypothesis"):  # lmms-eval's environment has none
    from hypothesis import settings

    settings.register_profile("same", derandomize=not os.environ.get("VTC_FUZZ"), database=None)
    settings.load_profile("same")

# Its modules import the tools that they are for, which have environments of their own.
collect_ignore = [] if find_spec("lmms_eval") else ["vtc_lab/integrations"]


# The files that take longest, longest first: the short ones then fill the end evenly.
LONGEST = ["notebooks", "figures", "browser", "sweep", "video", "store", "ablation", "speed", "compress", "published"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files come first; a file is never split, and the next free worker takes the next one."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    places = {f"test_{name}.py": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (places.get(item.path.name, len(places)), item.path not in slow))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say loudly that the tests of the browser were left out, which a count of skipped tests would hide."""
    said = {str(report.longrepr[2]) for report in terminalreporter.getreports("skipped") if report.longrepr}
    for words in sorted(text for text in said if "no browser" in text):
        terminalreporter.write_line(f"!!! {words.removeprefix('Skipped: ')} !!!", red=True, bold=True)


@pytest.fixture(autouse=True)
def registries_as_before() -> Iterator[None]:
    """Remove the methods and families that a test or an example registers."""
    before = [(registry, dict(registry)) for registry in (METHODS, INSIDE, FAMILIES)]
    yield
    for registry, entries in before:
        registry.clear()
        registry.update(entries)
