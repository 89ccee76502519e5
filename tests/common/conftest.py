"""Fixtures of several files here."""

from tests.fixtures.tiny_claims import tiny  # noqa: F401
