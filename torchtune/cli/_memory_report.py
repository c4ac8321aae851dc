"""The text of a memory estimate."""

from collections.abc import Iterator

from torchtune._pluralize import pluralize
from torchtune.runs.console import paint, size_text


def summary(estimate: dict[str, int] | None, separator: str = "\n    ") -> str:
    """Return `ok`, the number of parameters and the memory estimate, on two lines or on one."""
    ok = paint("ok", "bold", "green")
    if estimate is None:
        return ok
    n_parameters, n_trained = estimate["parameters"], estimate["trainable"]
    parameters = f"{n_parameters:,} parameters"
    memory = f"{size_text(estimate['weights'])} of weights"
    if n_trained:
        parameters += f", {n_trained:,} trained ({n_trained / n_parameters:.2%})"
        memory += f" + {size_text(estimate['gradients'])} of gradients"
        memory += f" + {size_text(estimate['optimizer'])} of optimizer state = {size_text(estimate['total'])}"
    title = f"memory on each of the {estimate['ranks']} ranks" if estimate["ranks"] > 1 else "memory"
    activations = "activations"
    if estimate["activations"]:
        batch = _batch(estimate)
        if not estimate["is_length_known"]:
            batch += "; the length is assumed, because the data does not exist yet"
        activations = f"about {size_text(estimate['activations'])} of activations ({batch})"
    hint = ""
    if "peak_without_fsdp" in estimate:
        peak, unsharded = estimate["peak"] or estimate["total"], estimate["peak_without_fsdp"]
        hint = (
            f"{separator}most weights are frozen; enable_fsdp=false would not gather them in every pass, and is faster"
            f" if each rank has {size_text(unsharded)} of memory (now {size_text(peak)})"
        )
    return f"{ok}: {parameters}{separator}{title}: {memory}, plus {activations}{hint}"


def _batch(estimate: dict[str, int]) -> str:
    return f"{pluralize(estimate['rows'], 'batch row')} of {pluralize(estimate['length'], 'token')}"


def breakdown(estimate: dict[str, int]) -> Iterator[str]:
    """Yield the lines of the memory report: the memory of a rank in a training step, and its peak."""
    mapped = f"{size_text(estimate['mapped'])} memory-mapped from files, shared with other processes"
    rows = [
        ("weights", estimate["weights"], mapped if estimate["mapped"] else ""),
        ("optimizer state", estimate["optimizer"], ""),
        ("gradients", estimate["gradients"], ""),
    ]
    if estimate["activations"]:
        rows.append(("activations", estimate["activations"] - estimate["loss"], _batch(estimate)))
        optional = [
            ("logits and loss", estimate["loss"], ""),
            ("heap", estimate["heap"], "fragmentation, as measured on Linux"),
            (
                "context",
                estimate["context"],
                "CUDA context, libraries and fragmentation; not yet measured on a GPU",
            ),
        ]
        rows += [row for row in optional if row[1]]
    peak_note = "excluding Python and its imports (about 0.3 GiB)" if estimate["heap"] else ""
    if estimate["peak"] and estimate["peak"] < sum(size for _, size, _ in rows):
        freed = "activations are freed as gradients are computed"
        peak_note = freed + (f"; {peak_note}" if peak_note else "")
    for name, size, note in [*rows, *([("peak", estimate["peak"], peak_note)] if estimate["peak"] else [])]:
        yield f"{name:16}{size_text(size):>10}  {note}".rstrip()
