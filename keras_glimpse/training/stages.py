"""What is being trained: one glimpse after another, then a last adjustment (section 2.2.4)."""

import numbers
from typing import NamedTuple

FINE_TUNE = "fine_tune"


class Stage(NamedTuple):
    """One stage of training.

    Attributes:
        glimpse: index, from 0, of the glimpse network that this stage trains; earlier ones are frozen.
        searches: whether places are searched around the prediction (section 2.2) or taken as predicted (section 2.2.2).
    """

    glimpse: int
    searches: bool

    @classmethod
    def parse(cls, stage: int | str, num_glimpses: int, last: int | None = None) -> "Stage":
        """The stage named `1`, `2`, ..., `num_glimpses`, or `"fine_tune"`, which is of the `last` glimpse.

        Example:
        >>> Stage.parse(2, num_glimpses=3)
        Stage(glimpse=1, searches=True)
        """
        if stage == FINE_TUNE:
            return cls((last or num_glimpses) - 1, searches=False)
        if isinstance(stage, numbers.Integral) and not isinstance(stage, bool) and 1 <= stage <= num_glimpses:
            return cls(int(stage) - 1, searches=True)
        names = [*range(1, num_glimpses + 1), FINE_TUNE]
        raise ValueError(f"stage must be one of {names} for a model of {num_glimpses} glimpse(s); got {stage!r}.")

    @property
    def trains_low_res(self) -> bool:
        """The low-resolution network is trained with the first glimpse, and never again."""
        return self.searches and self.glimpse == 0


def all_stages(num_glimpses: int) -> list[int | str]:
    """The stages in the order of section 2.2.4.

    Example:
    >>> all_stages(2)
    [1, 2, 'fine_tune']
    """
    return [*range(1, num_glimpses + 1), FINE_TUNE]
