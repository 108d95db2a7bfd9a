"""Bobbin: a self-hosted messaging server."""

__version__ = "0.1.0"  # pyproject.toml says the same (tests/test_packaging.py)
