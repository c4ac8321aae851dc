"""Llama checkpoints in Meta's format."""
