"""Tables from the Hugging Face hub."""

from typing import Any

LOAD_OPTIONS = ("name", "revision", "data_dir", "data_files", "cache_dir")
"""What of `datasets.load_dataset` a config may say. No tokens: configs are written into run folders."""


def load_hub_table(source: str, split: str, load_options: dict[str, str]) -> Any:  # `datasets` has no types.
    """Load one split of a data set of the hub, or of its copy in the local cache.

    Raises:
        FileNotFoundError: the hub has no such data set.
        ConnectionError: the hub cannot be reached, and there is no copy.
        ValueError: the data set has no such split, an option is unknown, or there are no rows.
    """
    unknown = [name for name in load_options if name not in LOAD_OPTIONS]
    if unknown:
        raise ValueError(f"load_options: expected {', '.join(LOAD_OPTIONS)}, got {', '.join(unknown)}")
    instead = "a local .json or .jsonl file with the same columns can be the source instead"
    if "/" not in source:  # `datasets` takes names such as `pandas` for its own loaders, which unpickle files
        raise FileNotFoundError(
            f"{source}: no such file; a data set on the hub is named owner/name; {instead}"
        )
    from datasets import load_dataset

    try:
        table = load_dataset(source, split=split, **load_options)
    except ConnectionError as error:
        raise ConnectionError(
            f"{source}: the Hugging Face hub cannot be reached ({error}); {instead}"
        ) from error
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{source}: not on the Hugging Face hub ({error}); {instead}") from error
    except ValueError as error:
        raise ValueError(f"{source}: cannot be loaded: {error}") from error
    if len(table) == 0:
        raise ValueError(f"{source}: the split {split!r} has no rows")
    return table
