"""What the papers claim, one file a claim, found by file name; [`softmap.ledger`][] tests them."""
