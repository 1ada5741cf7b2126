"""The cache of the judges: what a change of code is, and what is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from rfscale.judges.cache import code_hash, kept

CODE = """import math

def area(r):
    if r > 0:
        return math.pi * r ** 2
    return 0.0
"""
SAME = {
    "comments": CODE.replace("r ** 2", "r ** 2  # of a circle"),
    "docstrings": CODE.replace("def area(r):\n", 'def area(r):\n    """Of a circle."""\n'),
    "a docstring of the file": f'"""Areas."""\n\n{CODE}',
    "blank lines": CODE.replace("    return 0.0", "\n\n    return 0.0"),
    "imports": CODE.replace("import math", "from place import math"),
    "spaces": CODE.replace("math.pi * r ** 2", "math.pi*r**2"),
}
OTHER = {
    "a number": CODE.replace("2", "3"),
    "a name": CODE.replace("math.pi", "math.e"),
    "a block": CODE.replace("    return 0.0", "        return 0.0"),
    "a string that is used": CODE.replace("0.0", '"none"'),
    "a line less": CODE.replace("    return 0.0\n", ""),
}


def hashed(text: str, folder: Path) -> str:
    (folder / "code.py").write_text(text)
    return code_hash(folder / "code.py")


@pytest.mark.parametrize("change", SAME)
def test_what_is_said_about_code_changes_nothing(change: str, tmp_path: Path) -> None:
    assert SAME[change] != CODE
    assert hashed(SAME[change], tmp_path) == hashed(CODE, tmp_path)


@pytest.mark.parametrize("change", OTHER)
def test_other_code_is_another(change: str, tmp_path: Path) -> None:
    assert hashed(OTHER[change], tmp_path) != hashed(CODE, tmp_path)


def test_a_result_is_computed_again_only_where_it_depends_on_something_else(tmp_path: Path) -> None:
    path, calls = tmp_path / "folder" / "exam.json", list[int]()
    path.parent.mkdir()

    def compute() -> dict[str, int]:
        calls.append(1)
        return {"result": len(calls)}

    for _ in range(2):
        assert kept(path, {"code": "a"}, compute) == {"result": 1}
    assert kept(path, {"code": "b"}, compute) == {"result": 2}
    path.write_text(path.read_text()[:-5])
    assert kept(path, {"code": "b"}, compute) == {"result": 3}
