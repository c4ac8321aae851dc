"""Errors with which an optimizer of others rejects its parameters, as mistakes in the config."""

from typing import Any

from torchtune.config import ConfigError, InstantiationError, Mistake
from torchtune.config.model import is_users_own
from torchtune.runs import means_no_memory


def build_error(error: InstantiationError, made_by: Any) -> ConfigError | None:
    """Return the error of a config whose optimizer cannot be built; None: it may be a defect, and needs its traceback.

    Args:
        error: What building it has raised.
        made_by: Its class, or the function that builds it.
    """
    if not _is_rejection(error.__cause__, made_by):
        return None
    mistake = Mistake("component", error.message, path=error.path or ("optimizer",))
    return ConfigError([mistake._replace(location=error.location or mistake.location)])


def step_error(error: Exception, optimizer_class: type) -> ConfigError | None:
    """Return the error of a config whose optimizer fails in its first step; None: it needs its traceback.

    Args:
        error: What the step has raised.
        optimizer_class: The optimizer's.
    """
    if optimizer_class.__module__.startswith("torch.") or not _is_rejection(error, optimizer_class):
        return None
    name = f"{optimizer_class.__module__}.{optimizer_class.__qualname__}"
    message = f"{name}: its first step fails: {type(error).__name__}: {error}".rstrip(": ")
    return ConfigError([Mistake("component", message, path=("optimizer",))])


def _is_rejection(error: BaseException | None, made_by: Any) -> bool:
    """Tell whether an error says what an optimizer does not support, and is not for the author of a recipe to debug."""
    is_rejection = isinstance(error, (RuntimeError, AssertionError)) and not means_no_memory(error)
    return is_rejection and not is_users_own(made_by)
