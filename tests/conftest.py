"""What holds for all tests."""

import os
from collections.abc import Generator
from pathlib import Path

import pytest

NODE_TESTS = Path(__file__).parent / "node"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a node test that was skipped has failed: nobody would notice that it never runs."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and _must_run(item.path):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow for a node test: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a module of node tests that was skipped as a whole."""
    report = yield
    if report.skipped and _must_run(collector.path):
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow for node tests: {report.longrepr}"
    return report


def _must_run(path: Path) -> bool:
    return os.environ.get("CI") == "true" and path.is_relative_to(NODE_TESTS)
