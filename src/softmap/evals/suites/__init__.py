"""The questions, one file each; found by file name."""
