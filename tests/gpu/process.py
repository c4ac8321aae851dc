"""Run a test in a separate process, in which the device of `tests.gpu.device` is installed."""

import functools
import importlib
import multiprocessing
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest

_PRELOADED = ["tests.gpu.device", "recipes.alpaca_generate", "recipes.full_finetune", "recipes.lora_finetune"]
"""Modules that the server imports once, before it forks a process for each test."""


def in_separate_process(test: Callable[..., None]) -> Callable[..., None]:
    """Make a test run in a separate process, in which all warnings are errors.

    The device cannot be removed from a process, and the autograd engine's thread for the device may abort the process
    when Python exits; a process that `multiprocessing` forks exits without finalizing Python.
    """

    @functools.wraps(test)
    def run(**arguments: Any) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(_PRELOADED)
        receiver, sender = context.Pipe(duplex=False)
        call = (test.__module__, test.__name__, arguments, sender)
        process = context.Process(target=_run, args=call)
        process.start()
        sender.close()
        try:
            failure = receiver.recv()
        except EOFError:
            failure = "the process died without a message"
        process.join()
        receiver.close()
        if failure:
            pytest.fail(failure, pytrace=False)

    return run


def _run(module: str, name: str, arguments: dict[str, Any], sender: Connection) -> None:
    from tests.gpu.device import install

    warnings.simplefilter("error")
    failure = ""
    try:
        install()
        getattr(importlib.import_module(module), name).__wrapped__(**arguments)
    except BaseException:
        failure = traceback.format_exc()
    sender.send(failure)
    sender.close()
    sys.stdout.flush()
    os._exit(0)
