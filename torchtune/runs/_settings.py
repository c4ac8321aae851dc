"""Settings that the library reads from configs of any class; only this module looks up fields by name."""

from pathlib import Path

from attrs import frozen


@frozen
class RunSettings:
    """The fields of a config that concern the run itself; None or False if the config has no such field."""

    output_dir: str | None
    """The run's folder."""
    device: str | None
    """A `Device`."""
    seed: int | None
    """The seed of all random numbers in the run; if None, a random seed is chosen."""
    deterministic: bool
    """Whether the run uses deterministic algorithms."""


def settings_of(cfg: object) -> RunSettings:
    """Return the run's settings from a config object of any class; values of an unexpected type are ignored."""
    output_dir, device, seed = (getattr(cfg, name, None) for name in ("output_dir", "device", "seed"))
    return RunSettings(
        str(output_dir) if isinstance(output_dir, (str, Path)) else None,
        device if isinstance(device, str) else None,
        seed if isinstance(seed, int) else None,
        getattr(cfg, "deterministic", False) is True,
    )
