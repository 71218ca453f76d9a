"""Claims that a notebook checks."""


def holds(true: bool, claim: str) -> None:
    """Print a claim that holds; raise AssertionError where it does not."""
    if not true:
        raise AssertionError(f"does not hold: {claim}")
    print(f"holds: {claim}")
