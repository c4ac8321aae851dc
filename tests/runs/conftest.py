"""These tests also trust the sample's package."""

from tests.config.conftest import trusting_the_sample

__all__ = ["trusting_the_sample"]
