"""Only what the specification's dotpaths name; everything else lives with the thing that it is about."""

from torchtune.utils import metric_logging

__all__ = ["metric_logging"]
