"""The suites, one file each; a suite's name is its file's name."""
