"""Expand home folders (`~` and `~user`) in paths."""

import os
import re


def expand_path(text: str) -> str:
    """Return a path with a leading `~` or `~user` replaced by the home folder, and without a trailing slash.

    Environment variables are rejected, not expanded: `$` is the prefix of references, and a config that depends on the
    environment would not be self-contained.

    Raises:
        ValueError: There is no such user, or the path begins with an environment variable.
    """
    variable = re.match(r"\$\w+", text)
    if variable:
        raise ValueError(
            f"a path cannot begin with the environment variable {variable[0]}; let the shell expand it, or use ~ for"
            " the home folder"
        )
    path = os.path.expanduser(text)  # noqa: PTH111 -- importing pathlib slows `tune ls` by 10%
    if path.startswith("~"):
        user = path.partition("/")[0]
        raise ValueError(
            f"{user} has no home folder; if this is a file name that begins with ~, use ./{text}"
        )
    return path.rstrip("/") or path[:1]
