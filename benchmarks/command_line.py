"""The argument parser shared by all benchmarks."""

import argparse


def benchmark_parser(name: str, docstring: str | None) -> argparse.ArgumentParser:
    """Return a parser without arguments whose help is the benchmark's docstring.

    Args:
        name: The benchmark's module in this package.
        docstring: The module's `__doc__`.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=docstring,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
