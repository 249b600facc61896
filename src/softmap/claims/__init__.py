"""What the papers claim, one file a claim, found by file name; :mod:`softmap.ledger` tests them."""
