"""The tests themselves: what they share is in tests/support, in tests/apps or in a conftest.py."""

import ast
from pathlib import Path

import pytest
from support.servers import TESTS

MODULES = sorted(TESTS.rglob("test_*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(TESTS).as_posix())
def test_no_test_module_imports_another(path: Path) -> None:
    imported: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = {part for name in imported for part in name.split(".")}
    assert not parts & {module.stem for module in MODULES}
