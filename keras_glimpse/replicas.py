"""`fit` and `evaluate` on several replicas, of one host or of several (`tf.distribute`)."""

import tensorflow as tf

Sharding = tf.data.experimental.AutoShardPolicy


def steps_on_all(model, step, results):
    """A train or test function, as Keras calls it, for a model that has several replicas.

    Keras's own averages every measure over the replicas after every step. Across hosts it cannot (keras#20585), and with
    more than one step an execution it raises (keras#19246). Here what the replicas have counted is summed once an
    execution: the measures are those of all images, and alike on all hosts, so that callbacks decide alike.

    Args:
        model: a compiled `GlimpseClassifier`.
        step: what a replica does with its share of a batch.
        results: gives the measures so far; called where all replicas can be summed over.
    """
    strategy = model.distribute_strategy

    def steps(iterator):
        def has_more(done, batch):
            return (done < model.steps_per_execution) & batch.has_value()

        def run(done, batch):
            strategy.run(step, args=(batch.get_value(),))
            return done + 1, tf.cond(done + 1 < model.steps_per_execution, iterator.get_next_as_optional, nothing)

        def nothing():
            return tf.experimental.Optional.empty(iterator.element_spec)

        done, _ = tf.while_loop(has_more, run, [0, iterator.get_next_as_optional()])
        return done, results()

    execute = steps if model.run_eagerly else tf.function(steps, reduce_retracing=True, autograph=False)

    def function(iterator):
        done, logs = execute(iterator)
        if done == 0:
            raise StopIteration
        return logs

    return function


def shared_by_hosts(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The dataset, of whose every batch each host is to take its share, unless its options say otherwise.

    By default hosts would read different files, and their batches together would not be those of one host.
    """
    if dataset.options().experimental_distribute.auto_shard_policy != Sharding.AUTO:
        return dataset
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = Sharding.DATA
    return dataset.with_options(options)


def check_same_seed(strategy: tf.distribute.Strategy) -> None:
    """Raises unless all hosts would shuffle arrays alike: then the shares of a batch make up that batch."""
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
