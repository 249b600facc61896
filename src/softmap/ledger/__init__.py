"""Claims put to the test: the trainings they share, the studies that read them, and the ledger."""
