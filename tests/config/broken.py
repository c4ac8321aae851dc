"""Finding the mistakes of a config that is broken on purpose."""

from pathlib import Path

from tests.config import sample
from torchtune.config import ConfigError


def mistakes_of(*words: str, yaml: str | None = None, folder: Path | None = None) -> list[str]:
    """Return the mistakes of the sample's config with overrides, or of a YAML text, as lines."""
    name = None
    if yaml is not None:
        assert folder is not None
        file = folder / "my.yaml"
        file.write_text(yaml, encoding="utf-8")
        name = str(file)
    try:
        layers = sample.main.layers(name, words if yaml is not None else ("output_dir=out", *words))
        layers.build("the config of sample")
    except ConfigError as error:
        return [str(m).replace(f"{folder}/", "") for m in error.mistakes]
    return []
