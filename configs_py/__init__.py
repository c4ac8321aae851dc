"""Runs: each function returns a recipe's config, and its name is the config's name.

A variant calls the nearest config's function, assigns what differs and returns it.
"""
