"""The two tiers of tests: of many variants of one behaviour, one runs always and the others with the slow tests."""

import pytest


def one_fast(variants):
    """Parameters of which the first runs always, and the others are marked slow."""
    first, *others = variants
    return [first, *(pytest.param(*(each if isinstance(each, tuple) else (each,)), marks=pytest.mark.slow) for each in others)]
