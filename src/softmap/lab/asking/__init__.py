"""``softmap eval``: finds models, asks questions, compares the answers, and writes one page."""
