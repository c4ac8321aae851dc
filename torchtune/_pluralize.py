"""Format numbers with their units, for messages."""


def pluralize(n: int, unit: str) -> str:
    """Return a number with its unit, such as `1 row` or `2,000 rows`.

    Args:
        n: The number.
        unit: The unit in the singular; its plural must be formed with s.
    """
    return f"{n:,} {unit}{'s' * (n != 1)}"
