"""The torchtune and TRL sides of benchmarks/training.py, each run in a separate process."""
