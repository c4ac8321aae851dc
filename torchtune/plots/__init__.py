"""Curves, tables, images and pages of runs."""

from torchtune.plots._curves import usual_smoothing
from torchtune.plots._image import image_of
from torchtune.plots._page import page_of
from torchtune.plots._run import PlottedRun, read_runs
from torchtune.plots._table import HEADS, row_of

__all__ = ["HEADS", "PlottedRun", "image_of", "page_of", "read_runs", "row_of", "usual_smoothing"]
