"""docs/spec-coverage.md and docs/reliability.md: each test that they name is there."""

import functools
import re

import pytest

from harness import ROOT

FILES = sorted(path for path in (ROOT / "tests").rglob("*") if path.suffix in (".py", ".c"))
FUNCTION = re.compile(r"^(?:def|(?:static )?(?:void|int)) (\w+)\(", re.MULTILINE)


@functools.cache
def functions_of(path):
    return FUNCTION.findall(path.read_text())


def has(functions, name):
    """`test_a_thing_…` is the beginning of one."""
    return any(function.startswith(name[:-1]) if name.endswith("…") else function == name for function in functions)


def missing_of(cell):
    """Names of tests in one cell of a table: `test_x.py`, `test_x.py::test_y`, `::test_z` of the file named last, `unit/room/x_test.c`, `a_unit_test_…`, `tests/faults`."""
    file = None
    for name in (name.split("[")[0] for name in re.findall(r"`([^`]+)`", cell)):
        if match := re.fullmatch(r"…?([\w/]+\.(?:py|c))?(?:::(\w+…?))?", name):
            if match[1]:
                file = next((path for path in FILES if f"/{path}".endswith(f"/{match[1]}")), None)
            if file is None or (match[2] and not has(functions_of(file), match[2])):
                yield name
        elif re.match(r"(tests|script|bench)/", name):
            if not (ROOT / name.split()[0]).exists():
                yield name
        elif re.fullmatch(r"\w+_\w*…", name) and not any(has(functions_of(path), name) for path in FILES):
            yield name


@pytest.mark.parametrize("page", ["spec-coverage.md", "reliability.md"])
def test_every_test_that_the_tables_name_is_there(page):
    missing, rows = [], 0
    for number, line in enumerate((ROOT / "docs" / page).read_text().splitlines(), 1):
        if line.startswith("| ") and not line.startswith("| ---"):
            rows += 1
            missing += [f"{page}:{number}: {name}" for name in missing_of(re.split(r"(?<!\\)\|", line.strip().strip("|"))[-1])]
    assert rows > 20 and not missing, "\n".join(missing)
