"""Files have their places: no two of tests share a name, by which pytest imports them, and no
folder of the package is a heap."""

from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parents[1]


def test_no_two_files_of_tests_have_one_name():
    names = Counter(path.name for path in TESTS.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


MOST_FILES, MOST_LINES = 14, 500


def test_no_folder_of_the_package_is_a_heap_and_no_file_too_long():
    package = TESTS.parent / "gfn_ray"
    folders = Counter(path.parent for path in package.rglob("*.py"))
    assert {str(f): n for f, n in folders.items() if n > MOST_FILES} == {}
    lines = {path: len(path.read_text().splitlines()) for path in package.rglob("*.py")}
    assert {str(path): n for path, n in lines.items() if n > MOST_LINES} == {}
