"""Utilities with the dotpaths that existing configs use."""

from torchtune.utils import metric_logging

__all__ = ["metric_logging"]
