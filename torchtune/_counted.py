"""Numbers with their units in messages."""


def counted(n: int, unit: str) -> str:
    """Return a number with its unit, such as `1 row` or `2,000 rows`.

    Args:
        n: How many there are.
        unit: The unit in the singular; its plural ends in s.
    """
    return f"{n:,} {unit}{'s' * (n != 1)}"
