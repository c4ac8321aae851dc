"""Advice about a JSON file that contains one object instead of rows."""

from typing import Any

from torchtune._pluralize import pluralize

_ROW_COLUMNS = {
    "messages",
    "conversations",
    "conversation",
    "instruction",
    "prompt",
    "completion",
    "chosen",
    "rejected",
}
"""Columns by which an object is recognized as a row."""


def describe_object(value: dict[str, Any]) -> str:
    """Return the message for an object in place of a list of rows: the keys that may contain rows, and a fix."""
    return f"expected a list of rows or one row per line, got one object; {_advice(value)}"


def _advice(value: dict[str, Any]) -> str:
    row_advice = "if the object itself is a row, put it in a list: [{...}]"
    if _ROW_COLUMNS & value.keys():
        return "it seems to be one row: put it in a list, [{...}], or on one line of a .jsonl file"
    lists = [key for key, item in value.items() if _is_rows(item)]
    if lists:
        key = max(lists, key=lambda name: len(value[name]))
        others = "".join(f", {name!r} a list of {len(value[name]):,}" for name in lists if name != key)
        return (
            f"its key {key!r} contains a list of {pluralize(len(value[key]), 'object')}{others}: if those are the rows,"
            f" save only that list: json.dump(value[{key!r}], file); {row_advice}"
        )
    if _is_columns(value):
        return (
            f"its keys {_names(value)} seem to be columns: save a list of rows instead, as pandas does with"
            ' to_json(path, orient="records")'
        )
    if len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
        return (
            f"its keys {_names(value)} seem to be row names: save the rows as a list instead,"
            " with json.dump(list(value.values()), file)"
        )
    return f"its keys are {_names(value)}; {row_advice}"


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_columns(value: dict[str, Any]) -> bool:
    """Return whether an object maps names to columns: lists of one length, or pandas objects keyed by row number."""
    items = list(value.values())
    if not items:
        return False
    if all(isinstance(item, list) for item in items):
        return len({len(item) for item in items}) == 1 and bool(items[0])
    return all(isinstance(item, dict) and item and all(map(str.isdecimal, item)) for item in items)


def _names(value: dict[str, Any]) -> str:
    names = [repr(name) for name in value]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"
