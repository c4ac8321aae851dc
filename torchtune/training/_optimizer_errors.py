"""Report errors of third-party optimizers that reject their parameters as mistakes in the config."""

from typing import Any

from torchtune.config import ConfigError, InstantiationError, Mistake
from torchtune.config.model import is_user_code
from torchtune.runs import is_out_of_memory


def build_error(error: InstantiationError, factory: Any) -> ConfigError | None:
    """Return a config error for an optimizer that cannot be built, or None if the original error must be raised.

    The original error must be raised if it may be a bug, because its traceback is then needed.

    Args:
        error: The error from building the optimizer.
        factory: The optimizer's class, or the function that builds it.
    """
    if not _is_rejection(error.__cause__, factory):
        return None
    mistake = Mistake("component", error.message, path=error.path or ("optimizer",))
    return ConfigError([mistake._replace(location=error.location or mistake.location)])


def step_error(error: Exception, optimizer_class: type) -> ConfigError | None:
    """Return a config error for an optimizer whose first step fails, or None if the original error must be raised.

    Args:
        error: The error from the step.
        optimizer_class: The class of the optimizer.
    """
    if optimizer_class.__module__.startswith("torch.") or not _is_rejection(error, optimizer_class):
        return None
    name = f"{optimizer_class.__module__}.{optimizer_class.__qualname__}"
    message = f"{name}: its first step fails: {type(error).__name__}: {error}".rstrip(": ")
    return ConfigError([Mistake("component", message, path=("optimizer",))])


def _is_rejection(error: BaseException | None, factory: Any) -> bool:
    """Return whether an error means that a library's optimizer does not support its parameters."""
    is_rejection = isinstance(error, (RuntimeError, AssertionError)) and not is_out_of_memory(error)
    return is_rejection and not is_user_code(factory)
