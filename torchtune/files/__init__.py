"""Files and folders that are complete or not there, and JSON files."""

from torchtune.files._atomic import partial_of, resolved, write_text, written_whole
from torchtune.files._json import read_json, unexpected, write_json

__all__ = ["partial_of", "read_json", "resolved", "unexpected", "write_json", "write_text", "written_whole"]
