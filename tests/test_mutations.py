"""The list of deliberate breakages stays true to the code, and the developers' page has all of it."""

import ast

import pytest

from tests.mutations import MUTATIONS, ROOT, applied


@pytest.mark.parametrize("mutation", MUTATIONS.values(), ids=MUTATIONS)
def test_there_is_what_a_mutation_breaks_and_the_test_that_notices(mutation):
    broken = applied(mutation, (ROOT / mutation.file).read_text())
    ast.parse(broken)
    file, _, name = mutation.test.partition("::")
    tests = ast.parse((ROOT / file).read_text()).body
    assert name in [test.name for test in tests if isinstance(test, ast.FunctionDef)]
    page = (ROOT / "docs" / "contributing.md").read_text()
    assert f"| {mutation.what} | `{name}` |" in page
