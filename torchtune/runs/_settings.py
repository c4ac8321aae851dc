"""What the library reads of any recipe's config, whatever its class: the one function that looks fields up by name."""

from pathlib import Path

from attrs import frozen


@frozen
class RunSettings:
    """The fields of a config that concern the run itself; None where a config has none."""

    output_dir: str | None
    """The run's folder."""
    device: str | None
    """A `Device`."""
    seed: int | None
    """Seed of every random number of the run; None draws one."""


def settings_of(cfg: object) -> RunSettings:
    """Read the run's settings from a config object of any class; values of other types count as absent."""
    output_dir, device, seed = (getattr(cfg, name, None) for name in ("output_dir", "device", "seed"))
    return RunSettings(
        str(output_dir) if isinstance(output_dir, (str, Path)) else None,
        device if isinstance(device, str) else None,
        seed if isinstance(seed, int) else None,
    )
