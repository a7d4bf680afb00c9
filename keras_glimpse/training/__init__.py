"""Training in stages: the objective, one step of it, Keras's hooks, and what goes on around the steps."""
