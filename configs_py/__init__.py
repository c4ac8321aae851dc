"""Configs: each function returns the config of a recipe, and its name is the config's name.

A variant calls the function of the most similar config, assigns the fields that differ, and returns it.
"""
