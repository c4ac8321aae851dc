"""attrs classes whose constructors and assignments are watched, and attrs' own combinations of validators."""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

import attr
import attrs

from torchtune.internals._internal import Internal

# Its two packages are next to this one if it is installed from a wheel. Text is compared with text.
_ATTRS_FOLDERS = tuple(os.path.join(os.path.dirname(str(m.__file__)), "") for m in (attr, attrs))  # noqa: PTH118, PTH120
_GENERATED = (*_ATTRS_FOLDERS, "<attrs", "<string>")
"""How the file names of attrs' code, and of what it and dataclasses generate, begin."""

Method = Callable[..., None]


class Call(NamedTuple):
    """A call or assignment, as the code and instruction that made it."""

    code: CodeType
    instruction: int
    copied_from: object = None
    """The object that `attrs.evolve` or `dataclasses.replace` was given."""


def calling_line(skipped: str) -> Call | None:
    """Return the nearest call above the caller's caller that is neither generated code nor attrs' or dataclasses'.

    Args:
        skipped: A file whose calls are skipped too.
    """
    frame: FrameType | None = sys._getframe(2)
    copied_from = None
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if function == "evolve" and file.startswith(_ATTRS_FOLDERS):
            copied_from = frame.f_locals.get("inst", (frame.f_locals.get("args") or (None,))[0])
        elif function in ("replace", "_replace") and file == dataclasses.__file__:
            copied_from = frame.f_locals.get("obj", frame.f_locals.get("self"))
        elif not file.startswith(_GENERATED) and file not in (skipped, dataclasses.__file__):
            return Call(frame.f_code, frame.f_lasti, copied_from)
        frame = frame.f_back
    return None


def is_constructing() -> bool:
    """Tell whether the caller was called by a constructor."""
    return sys._getframe(2).f_code.co_name == "__init__"


@contextmanager
def watch_methods(
    classes: Iterable[type], init: Callable[[Method], Method], assign: Callable[[Method], Method]
) -> Iterator[bool]:
    """Wrap the constructors and assignments of config classes for a while.

    Args:
        classes: Classes of attrs, or dataclasses.
        init: Wraps an `__init__`.
        assign: Wraps a `__setattr__`.

    Yields:
        Whether they are wrapped; False if `RECORDING` is disabled.
    """
    is_on = RECORDING.is_enabled()
    with _replaced(classes if is_on else (), init, assign):
        yield is_on


@contextmanager
def _replaced(
    classes: Iterable[type], init: Callable[[Method], Method], assign: Callable[[Method], Method]
) -> Iterator[None]:
    saved = [(c, c.__init__, vars(c).get("__setattr__")) for c in classes]  # type: ignore[misc]
    for c, plain_init, plain_assign in saved:
        c.__init__ = init(plain_init)  # type: ignore[misc]  # put back below
        c.__setattr__ = assign(plain_assign or c.__setattr__)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for c, plain_init, plain_assign in saved:
            c.__init__ = plain_init  # type: ignore[misc]
            if plain_assign is None:
                del c.__setattr__
            else:
                c.__setattr__ = plain_assign  # type: ignore[method-assign]


def _sees_calls() -> bool:
    """Make, copy and change an object of a small class, and look at which calls were seen."""
    probed = attrs.make_class("Probed", ["x"])
    seen: list[Call | None] = []

    def noting(plain: Method) -> Method:
        def noted(*args: Any, **kwargs: Any) -> None:
            if not is_constructing():
                seen.append(calling_line(""))
            plain(*args, **kwargs)

        return noted

    with _replaced([probed], noting, noting):
        first = probed(x=1)
        second = attrs.evolve(first, x=2)
        second.x = 3
    is_restored = probed(x=4).x == 4 and len(seen) == 3
    code = sys._getframe().f_code
    copied = [call.copied_from for call in seen if call is not None and call.code is code]
    return is_restored and copied == [None, first, None]


def combined_validators(validator: Any) -> list[Any]:
    """Return the validators that one of attrs' own combines; none if `VALIDATORS` is disabled."""
    return _parts(validator) if VALIDATORS.is_enabled() else []


def _parts(validator: Any) -> list[Any]:
    alone = getattr(validator, "validator", None)
    return [*getattr(validator, "_validators", ()), *([] if alone is None else [alone])]


def _parts_are_there() -> bool:
    one, other = attrs.validators.gt(0), attrs.validators.lt(9)
    both, optional = attrs.validators.and_(one, other), attrs.validators.optional(one)
    return _parts(both) == [one, other] and _parts(optional) == [one] and _parts(one) == []


RECORDING = Internal(
    name="recording of config functions",
    written_for="attrs 26.1.0",
    gain="lines of fields, and all mistakes at once: tune show lora_finetune --config smollm2_135m_lora --origins",
    fallback="values have the first line of their config function, which ends at its first mistake",
    probe=_sees_calls,
)
VALIDATORS = Internal(
    name="combined validators",
    written_for="attrs 26.1.0",
    gain='"expected text that is not empty" in messages, minLength in schemas: tune schema alpaca_generate',
    fallback="rules of fields with several validators are missing from messages and schemas, but are enforced",
    probe=_parts_are_there,
)
