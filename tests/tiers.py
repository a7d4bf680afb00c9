"""The two tiers of tests: of many variants of one behaviour, one runs always and the others with the slow tests."""

import pytest


def slow(variant):
    """A variant that runs with the slow tests."""
    return pytest.param(*(variant if isinstance(variant, tuple) else (variant,)), marks=pytest.mark.slow)


def one_fast(variants):
    """Parameters of which the first runs always, and the others are marked slow."""
    first, *others = variants
    return [first, *map(slow, others)]
