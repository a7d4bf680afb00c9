"""`fit` and `evaluate` on several replicas, of one host or of several (`tf.distribute`)."""

import contextlib

import tensorflow as tf

Sharding = tf.data.experimental.AutoShardPolicy


def scope_of(model):
    """The scope of the strategy that the model was built under, wherever we are now."""
    strategy = model.distribute_strategy
    return contextlib.nullcontext() if strategy is tf.distribute.get_strategy() else strategy.scope()


def shared_by_hosts(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Shards each batch across hosts (`AutoShardPolicy.DATA`), unless the options of the dataset say otherwise.

    By default hosts would read different files, and their batches together would not be those of one host.
    """
    if dataset.options().experimental_distribute.auto_shard_policy != Sharding.AUTO:
        return dataset
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = Sharding.DATA
    return dataset.with_options(options)


def check_same_seed(strategy: tf.distribute.Strategy) -> None:
    """Raises unless all hosts have the same seed, so that their shares of a shuffled batch make up that batch."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    seed = tf.compat.v1.get_seed(None)[0]
    mine = strategy.experimental_distribute_values_from_function(lambda _: tf.constant([-1 if seed is None else seed]))
    seeds = strategy.gather(mine, axis=0).numpy().tolist()
    if len({*seeds}) > 1 or seed is None:
        raise ValueError(
            "All workers must shuffle alike: call keras.utils.set_random_seed with the same number in each of them, or "
            f"pass shuffle=False or a dataset. Their seeds are {[None if seed < 0 else seed for seed in seeds]}."
        )


def check_shared(strategy: tf.distribute.Strategy, metrics) -> None:
    """Raises unless all hosts count together: a metric made outside the strategy's scope counts what its own host sees."""
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy):
        return
    for metric in metrics:
        if not all(strategy.extended.variable_created_in_scope(variable.value) for variable in metric.variables):
            raise ValueError(f"The metric {metric.name!r} was made outside strategy.scope(): make it inside, or give its name.")
