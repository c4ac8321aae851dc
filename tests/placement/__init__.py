"""Tests of torchtune.placement."""
