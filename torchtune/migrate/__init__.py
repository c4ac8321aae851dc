"""Configs of other projects, turned into ours."""

from torchtune.migrate._original import Import

__all__ = ["Import"]
