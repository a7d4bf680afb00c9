"""Early exit: prediction, its costs, and the curve of error against cost."""
