"""Mistakes in a config that exceptions report."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torchtune.config import InstantiationError, Mistake, model
from torchtune.config.model import as_path


class Mistakes:
    """Collects mistakes that exceptions report, each with the field that it belongs to.

    Args:
        layers: Know where a field was written.
    """

    def __init__(self, layers: "model.Layers") -> None:
        self._layers = layers
        self.found: list[Mistake] = []

    @contextmanager
    def of(self, field: str) -> Iterator[None]:
        """Turn an exception for bad input into a mistake of a field."""
        try:
            yield
        except (ValueError, OSError) as error:
            self.add(field, error)

    def add(self, field: str, error: BaseException) -> None:
        """Add what an exception reports; one that knows where its component was written says it once."""
        path = as_path(field)
        if isinstance(error, InstantiationError):
            from torchtune.runs import located_at_arguments  # completion makes no mistakes

            error = located_at_arguments(error, self._layers)
        location = getattr(error, "location", None)
        if location is not None:
            path = getattr(error, "path", ()) or path
        message = getattr(error, "message", None) or str(error)
        self.found.append(
            Mistake("component", message, path=path, location=location or self._layers.last_origin(path))
        )

    def add_all(self, errors: Iterable[tuple[str, Exception]]) -> None:
        """Add what several exceptions report, each with its field."""
        for field, error in errors:
            self.add(field, error)
