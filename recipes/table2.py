"""Table 2, jittered MNIST: control experiments.

    python recipes/table2.py --list
    python recipes/table2.py --row parallel --seeds 1     # 50 sweeps over 600,000 images, half an hour on one core,
                                                          # and as long again for the first glimpse, from which it starts

Protocol as in `table1.py`, whose rows these start from. The remarks of the paper's text have rows in `table3.py`.
"""

from dataclasses import replace
from functools import partial

from experiment import main
from rows import Table
from table1 import DENSE_MACS, FIRST, SECOND, TUNED, ours, two_glimpses

single = partial(two_glimpses, scales=(1,))
no_penalty = partial(two_glimpses, diversity_weight=0.0)

SINGLE = ours("single-resolution", "this method, 1 glimpse (single resolution)", single, 4.2, 7, 4.2, stage=1)
NO_CONTRAST = ours(
    "no-contrast",
    "this method, 1 glimpse (single resolution), no contrastive term",
    partial(single, contrastive=False),
    14.0,
    7,
    stage=1,
)
PARALLEL = ours(
    "parallel",
    "this method, 2 glimpses, done in parallel",
    partial(two_glimpses, parallel=True),
    1.75,
    3,
    1.75,
    FIRST,
    2,
    seeds=3,
)
NO_DIVERSITY = ours("no-diversity", "this method, 2 glimpses, no diversity penalty", no_penalty, 1.4, 3, 1.4, FIRST, 2, seeds=3)
NO_DIVERSITY_TUNED = ours(
    "no-diversity-fine-tuned",
    "this method, 2 glimpses, no diversity penalty with fine tuning",
    no_penalty,
    1.2,
    3,
    1.2,
    NO_DIVERSITY,
    "fine_tune",
    seeds=3,
)
SHARED = ours(
    "weight-sharing",
    "this method, 2 glimpses, with weight sharing",
    partial(two_glimpses, share_weights=True),
    1.7,
    3,
    1.7,
    FIRST,
    2,
    seeds=3,
)

TABLE = Table(
    "table2",
    "Table 2: control experiments on jittered MNIST",
    (
        replace(FIRST, title="this method, 1 glimpse (multi-resolution)", target=2.3),
        SINGLE,
        NO_CONTRAST,
        replace(SECOND, target=1.6),
        *(PARALLEL, NO_DIVERSITY, NO_DIVERSITY_TUNED, SHARED),
    ),
    DENSE_MACS,
    effects=(
        (SINGLE, FIRST),
        (NO_CONTRAST, SINGLE),
        (SECOND, FIRST),
        (TUNED, SECOND),
        (PARALLEL, SECOND),
        (NO_DIVERSITY, SECOND),
        (NO_DIVERSITY_TUNED, NO_DIVERSITY),
        (SHARED, SECOND),
    ),
)

if __name__ == "__main__":
    main(TABLE, __doc__)
