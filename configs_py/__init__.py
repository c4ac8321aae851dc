"""Configs: each function returns the config of a recipe; the function's name is the name of the config.

A variant calls the function of the most similar config, assigns the fields that differ, and returns it.
"""
