"""Fixtures: these tests also trust the package of the sample recipe."""

from tests.config.conftest import trust_the_sample

__all__ = ["trust_the_sample"]
