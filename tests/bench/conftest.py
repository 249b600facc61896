"""Fixtures of the bench's tests."""

from bench_backend import add_backend, quick  # noqa: F401
