"""Tests of what this suite adds to pytest."""

import pytest

SKIPPED = """
import pytest

@pytest.mark.gpu
def test_on_a_gpu():
    pytest.skip("no GPU here")

def test_in_a_browser():
    pytest.skip("no browser here")

@pytest.mark.skipif(True, reason="no such file system")
def test_on_a_file_system():
    pass
"""


@pytest.mark.parametrize(
    ("options", "outcomes"), [([], {"skipped": 3}), (["--only-gpu-skips"], {"skipped": 1, "failed": 1, "errors": 1})]
)
def test_only_tests_that_need_a_gpu_may_be_skipped_where_all_else_is_installed(
    pytester: pytest.Pytester, options: list[str], outcomes: dict[str, int]
) -> None:
    pytester.makeini("[pytest]\nmarkers = gpu: needs a GPU")
    pytester.makepyfile(SKIPPED)
    done = pytester.runpytest_inprocess(*options, "-p", "no:cacheprovider", plugins=["only_gpu_skips"])
    done.assert_outcomes(**outcomes)
    if options:
        assert "--only-gpu-skips: " in done.stdout.str()
        assert "no browser here" in done.stdout.str()
