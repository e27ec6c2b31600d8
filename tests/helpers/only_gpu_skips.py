"""The option `--only-gpu-skips`, with which a test that is skipped fails unless it needs a GPU: hooks of pytest."""

from collections.abc import Generator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--only-gpu-skips",
        action="store_true",
        help="fail where a test is skipped that does not need a GPU, as what it needs must be installed",
    )


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.skipped and item.config.getoption("--only-gpu-skips") and item.get_closest_marker("gpu") is None:
        report.outcome = "failed"
        report.longrepr = f"--only-gpu-skips: {report.longrepr}"
    return report
