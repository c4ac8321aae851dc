"""The values that `auto` selects in a run, recorded and compared with earlier runs of the same config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torchtune.distributed import World
from torchtune.runs import RunFolder
from torchtune.runs.console import print_note

AUTO = "auto"


def record_resolved(output_dir: str | None, world: World, field: str, configured: object, value: str) -> None:
    """Record the value of a field in effect in `run.json`, on rank 0, and note if `auto` selected another value before.

    The previous value comes from the part of the run before it was interrupted, or from the run whose frozen config
    this run repeats.

    Args:
        output_dir: The run's folder; None: nothing is recorded.
        world: The ranks of this run.
        field: The path of the field, such as `dtype`.
        configured: The value of the field in the config.
        value: The value in effect.
    """
    if output_dir is None or not world.is_main:
        return
    folder = RunFolder(output_dir)
    record = folder.read_record()
    resolved = _resolved_in(record)
    before = resolved.get(field, _resolved_in(_repeated_record(record)).get(field, value))
    if configured == AUTO and before != value:
        print_note(
            f"{field}: auto selected {before} in the earlier part of this run or in the run that it repeats, and"
            f" selects {value} now; results will differ"
        )
    folder.update_record({"resolved": {**resolved, field: value}})


def _resolved_in(record: Mapping[str, Any]) -> Mapping[str, Any]:
    values = record.get("resolved")
    return values if isinstance(values, dict) else {}


def _repeated_record(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of the run whose frozen config a run uses; empty if it uses no frozen config."""
    for entry in record.get("code", {}).values():  # includes the config's files
        folder = RunFolder(Path(entry["path"]).parent)
        if Path(entry["path"]) == folder.config.resolve():
            return folder.read_record()
    return {}
