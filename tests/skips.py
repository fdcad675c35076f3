"""The last line of a test run says what it did not test, so that green is never taken for more."""

from __future__ import annotations

from collections import Counter
from typing import cast

import pytest


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    # Those to whom xdist gives the work write nothing.
    if reporter is None or hasattr(config, "workerinput") or config.option.collectonly:
        return
    reasons = Counter(map(_reason, reporter.stats.get("skipped", ())))
    reporter.write_line(f"Skipped: {_listed(reasons)}")


def _reason(report: pytest.TestReport) -> str:
    _, _, reason = cast(tuple[str, int, str], report.longrepr)
    return reason.removeprefix("Skipped: ")


def _listed(reasons: Counter[str]) -> str:
    return "; ".join(f"{count} × {reason}" for reason, count in reasons.most_common()) or "nothing"
