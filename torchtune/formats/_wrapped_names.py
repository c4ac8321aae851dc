"""Remove the segments that model wrappers add to tensor names."""

from collections.abc import Callable, Iterable

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Segments that DataParallel, torch.compile, FSDP 1 and activation checkpointing add anywhere in a name."""

_DECODER_ATTRIBUTES = frozenset({"base_model", "model", "transformer"})
"""Leading segments of names: the attributes in which classes of transformers, PEFT and Lightning store the decoder."""


def unwrap_name(name: str) -> str:
    """Return the name of a tensor in the decoder: `_orig_mod.model.norm.weight` becomes `norm.weight`."""
    segments = without_wrappers(name).split(".")
    while len(segments) > 1 and segments[0] in _DECODER_ATTRIBUTES:
        del segments[0]
    return ".".join(segments)


def without_wrappers(name: str) -> str:
    """Return a name without the segments that wrappers add."""
    return ".".join(segment for segment in name.split(".") if segment not in _WRAPPERS)


def is_wrapped(name: str) -> bool:
    """Return whether a name contains a wrapper segment."""
    return not _WRAPPERS.isdisjoint(name.split("."))


def matched_names(
    file_names: Iterable[str], model_names: Iterable[str], unwrap: Callable[[str], str] = unwrap_name
) -> dict[str, str]:
    """Match the tensor names in a file with the names in a model, ignoring differences that wrappers cause.

    Args:
        file_names: The tensor names of the file.
        model_names: The tensor names of the model.
        unwrap: A function that removes the segments of wrappers from a name.

    Returns:
        A dictionary from the model's names to the file's names; a name without a match is mapped to itself.

    Raises:
        ValueError: Two names of the file match the same name of the model.
    """
    model_names = dict.fromkeys(model_names)
    by_unwrapped_name = {unwrap(name): name for name in model_names}
    matched: dict[str, str] = {}
    for name in file_names:
        target = name if name in model_names else by_unwrapped_name.get(unwrap(name), name)
        if target in matched:
            raise ValueError(
                f"{matched[target]} and {name} both become {target} when their wrapper prefixes are removed; remove one"
                " of the two tensors from the file"
            )
        matched[target] = name
    return matched
