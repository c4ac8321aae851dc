"""The sample's package is trusted in these tests too."""

from tests.config.conftest import trusting_the_sample

__all__ = ["trusting_the_sample"]
