"""Names of tensors without the prefixes that wrappers of a model put into them."""

from collections.abc import Callable, Iterable

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Segments of DataParallel, torch.compile, FSDP 1 and activation checkpointing, anywhere in a name."""

_HOLDERS = frozenset({"base_model", "model", "transformer"})
"""First segments of classes that hold the decoder as an attribute: transformers', PEFT's, Lightning's."""


def unwrapped(name: str) -> str:
    """Return what a tensor is called in the bare decoder: `_orig_mod.model.norm.weight` is `norm.weight`."""
    segments = without_wrappers(name).split(".")
    while len(segments) > 1 and segments[0] in _HOLDERS:
        del segments[0]
    return ".".join(segments)


def without_wrappers(name: str) -> str:
    """Return a name without the segments that wrappers put into it."""
    return ".".join(segment for segment in name.split(".") if segment not in _WRAPPERS)


def is_wrapped(name: str) -> bool:
    """Tell whether a wrapper put a segment into a name."""
    return not _WRAPPERS.isdisjoint(name.split("."))


def matched_names(
    names: Iterable[str], known: Iterable[str], bare: Callable[[str], str] = unwrapped
) -> dict[str, str]:
    """Match a file's names with those of a model: a name that only wrapper prefixes tell from a known one is that one.

    Args:
        names: The file's.
        known: The model's.
        bare: Removes what wrappers put into a name.

    Returns:
        The file's names by the model's; names that match none stay as they are.

    Raises:
        ValueError: two of the file's names are the same one of the model's.
    """
    known = dict.fromkeys(known)
    by_bare_name = {bare(name): name for name in known}
    matched: dict[str, str] = {}
    for name in names:
        target = name if name in known else by_bare_name.get(bare(name), name)
        if target in matched:
            raise ValueError(
                f"{matched[target]} and {name} are both {target} without wrapper prefixes, and only one of them can be"
                " the model's; remove the other from the file"
            )
        matched[target] = name
    return matched
