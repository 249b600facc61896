"""Triton kernels: under construction."""
