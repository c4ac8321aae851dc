"""What to do about a JSON file that is one object where rows are expected."""

from typing import Any

from torchtune._counted import counted

_OF_ROWS = {
    "messages",
    "conversations",
    "conversation",
    "instruction",
    "prompt",
    "completion",
    "chosen",
    "rejected",
}
"""Columns that the datasets read."""


def describe_object(value: dict[str, Any]) -> str:
    """Describe an object that stands where a list of rows is expected: which keys seem to hold rows, and what to do."""
    return f"expected a list of rows, or a row on each line, got one object; {_advice(value)}"


def _advice(value: dict[str, Any]) -> str:
    alone = "if the object itself is a row, put it in a list: [{...}]"
    if _OF_ROWS & value.keys():
        return "it seems to be one row: put it in a list, [{...}], or on one line of a .jsonl file"
    lists = [key for key, item in value.items() if _is_rows(item)]
    if lists:
        key = max(lists, key=lambda name: len(value[name]))
        others = "".join(f", {name!r} one of {len(value[name]):,}" for name in lists if name != key)
        return (
            f"its key {key!r} holds a list of {counted(len(value[key]), 'object')}{others}: if those are the rows, save"
            f" that list alone, json.dump(value[{key!r}], file); {alone}"
        )
    if _is_columns(value):
        return (
            f"its keys {_names(value)} seem to be columns: save a list of rows instead, as pandas does with"
            ' to_json(path, orient="records")'
        )
    if len(value) > 1 and all(isinstance(item, dict) for item in value.values()):
        return (
            f"its keys {_names(value)} seem to be the names of rows: save a list of the rows instead,"
            " json.dump(list(value.values()), file)"
        )
    return f"its keys are {_names(value)}; {alone}"


def _is_rows(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def _is_columns(value: dict[str, Any]) -> bool:
    """Tell columns by name: lists of one length, or objects whose keys are row numbers, as pandas writes them."""
    items = list(value.values())
    if not items:
        return False
    if all(isinstance(item, list) for item in items):
        return len({len(item) for item in items}) == 1 and bool(items[0])
    return all(isinstance(item, dict) and item and all(map(str.isdecimal, item)) for item in items)


def _names(value: dict[str, Any]) -> str:
    names = [repr(name) for name in value]
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") or "none"
