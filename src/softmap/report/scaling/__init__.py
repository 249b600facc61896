"""A law of loss over parameters and tokens, fitted to a sweep of sizes, and what it says of costs
at equal loss (docs/scaling.md)."""
