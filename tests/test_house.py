"""The order of the package: imports go down only, modules have names of their own, files and docstrings are short."""

import ast
import re
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "vtc_lab"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {".".join(path.relative_to(PACKAGE).with_suffix("").parts): ast.parse(path.read_text()) for path in FILES}
# From low to high: a room imports from those before it. The package's own __init__ is the roof.
ROOMS = ["tokens", "clips", "reducers", "encoders", "models", "measures", "pixels", "cost", "qa", "toy"]
ROOMS += ["sweeps", "speed", "figures", "widgets", "integrations", "__init__"]


def imports() -> Iterator[tuple[str, str]]:
    """Yield (module, dotted name that it imports) for every import, also those within functions and for types alone."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names)
            if isinstance(node, ast.ImportFrom):
                yield from ((module, f"{node.module}.{alias.name}") for alias in node.names)


def between_rooms() -> Iterator[tuple[str, str, int, int]]:
    """Yield (module, dotted name, room of the module, room of the name) for imports from another room."""
    for module, name in imports():
        if name.partition(".")[0] == "vtc_lab":
            here, there = module.split(".")[0], (name.split(".") + ["__init__"])[1]
            if here != there:
                yield module, name, ROOMS.index(here), ROOMS.index(there)


def described() -> Iterator[tuple[str, ast.AST, str]]:
    """Yield (place, definition, docstring) of every module, class and function that has one."""
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (said := ast.get_docstring(node)):
                yield f"{module}.{getattr(node, 'name', '')}", node, said


def test_imports_go_down():
    assert [(module, name) for module, name, here, there in between_rooms() if there > here] == []


def test_what_is_private_stays_in_its_room():
    assert [(module, name) for module, name, _, _ in between_rooms() if "._" in name] == []


def test_every_module_is_found_under_its_name():
    """No function has the name of a module beside it, or `import vtc_lab.measures as m` would give the function."""
    for name in TREES:
        path = f"vtc_lab.{name}".removesuffix(".__init__")
        if path != "vtc_lab.integrations.lmms_eval":  # its harness has an environment of its own
            module = import_module(path)
            package, *rest = path.split(".")
            assert reduce(getattr, rest, import_module(package)) is module, path


def test_pyplot_is_never_imported():
    """It corrupts pictures where callbacks of widgets run on a thread of their own, and seaborn imports it."""
    assert [found for found in imports() if re.search("pyplot|seaborn", found[1])] == []


def test_no_file_is_long():
    assert {path.name: count for path in FILES if (count := len(path.read_text().splitlines())) > 400} == {}


def test_docstrings_begin_with_what_is_done():
    question = re.compile(r"(What|How|Whether|Which|Where|Who|That)\b")
    assert [place for place, _, said in described() if question.match(said)] == []


def test_private_docstrings_are_no_longer_than_their_code():
    long = []
    for place, node, _ in described():
        said, private = node.body[0], re.search(r"\._(?!_)\w+$", place)
        if private and said.end_lineno - said.lineno + 1 > node.end_lineno - said.end_lineno:
            long.append(place)
    assert long == []
