"""Plot the metrics of runs as images and HTML pages."""

from torchtune.plots._curves import default_smoothing
from torchtune.plots._image import image_of
from torchtune.plots._page import page_of
from torchtune.plots._run import PlottedRun, read_runs
from torchtune.plots._table import HEADERS, row_of

__all__ = ["HEADERS", "PlottedRun", "default_smoothing", "image_of", "page_of", "read_runs", "row_of"]
