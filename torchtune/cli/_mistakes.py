"""Collect a config's mistakes from exceptions."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torchtune.config import InstantiationError, Mistake, model
from torchtune.config.model import as_path


class Mistakes:
    """A collection of the mistakes that exceptions report, each with its field.

    Args:
        layers: The config's layers, which record the location of each field.
    """

    def __init__(self, layers: "model.Layers") -> None:
        self._layers = layers
        self.entries: list[Mistake] = []

    @contextmanager
    def collect(self, field: str) -> Iterator[None]:
        """Catch an exception for invalid input, and add it as a mistake in a field."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.add(field, error)

    def add(self, field: str, error: BaseException) -> None:
        """Add the mistake that an exception reports, at the exception's location if it has one."""
        path = as_path(field)
        if isinstance(error, InstantiationError):
            from torchtune.runs import located_at_arguments  # not needed by completion

            error = located_at_arguments(error, self._layers)
        location = getattr(error, "location", None)
        if location is not None:
            path = getattr(error, "path", ()) or path
        message = getattr(error, "message", None) or str(error)
        self.entries.append(
            Mistake("component", message, path=path, location=location or self._layers.last_origin(path))
        )

    def add_all(self, errors: Iterable[tuple[str, Exception]]) -> None:
        """Add the mistakes that exceptions report, each with its field."""
        for field, error in errors:
            self.add(field, error)
