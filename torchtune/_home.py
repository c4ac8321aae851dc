"""Home folders in paths, `~` and `~user`."""

import os
import re


def expand_path(text: str) -> str:
    """Return a path with `~` or `~user` at its beginning replaced by the home folder, and no slash at its end.

    Environment variables are rejected, not expanded: `$` begins references, and a config that depends on them would
    not be complete without the shell that it was written for.

    Raises:
        ValueError: There is no such user, or the path begins with an environment variable.
    """
    variable = re.match(r"\$\w+", text)
    if variable:
        raise ValueError(
            f"a path cannot begin with {variable[0]}, an environment variable; let the shell expand it, or write ~ for"
            " the home folder"
        )
    path = os.path.expanduser(text)  # noqa: PTH111 -- pathlib costs `tune ls` a tenth
    if path.startswith("~"):
        user = path.partition("/")[0]
        raise ValueError(f"{user} is no user's home folder; write ./{text} for a path that begins so")
    return path.rstrip("/") or path[:1]
