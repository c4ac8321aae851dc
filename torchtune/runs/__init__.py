"""A run, from its name to its folder."""

from torchtune.runs._locate import ModelFolders, locate_model, result_of

__all__ = ["ModelFolders", "locate_model", "result_of"]
