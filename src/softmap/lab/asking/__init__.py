"""``softmap eval``: models found, questions asked, answers compared, one page written."""
