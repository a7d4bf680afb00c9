"""Large images in which the class sits in a small region: the tasks, and what else one would train on them."""
