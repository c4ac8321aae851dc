"""Fixtures: these tests trust the package of the sample recipe, too."""

from tests.config.conftest import trust_the_sample

__all__ = ["trust_the_sample"]
