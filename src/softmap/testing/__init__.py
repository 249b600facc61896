"""The conformance suite: does a variant keep what softmap promises of every variant?

    report = softmap.testing.check("my_file.py:mine")
    assert report.passed, report

or one pytest case a check::

    @pytest.mark.parametrize("name", CHECKS)
    def test_mine(name):
        CHECKS[name](CheckSubject("my_file.py:mine"))

Each check takes a [`CheckSubject`][], raises ``AssertionError`` with one line, and may return a
note that says what did not apply.
"""

from softmap.testing.subject import CheckSubject, bands
from softmap.testing.suite import CHECKS, QUICK, Outcome, Report, check, outcomes

__all__ = ["CHECKS", "QUICK", "CheckSubject", "Outcome", "Report", "bands", "check", "outcomes"]
