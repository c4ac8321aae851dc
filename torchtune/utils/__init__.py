"""Modules that the specification requires at these dotpaths."""

from torchtune.utils import metric_logging

__all__ = ["metric_logging"]
