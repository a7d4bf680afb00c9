"""The glimpse networks and location heads of a model: ours or the user's, one for each glimpse or one for all."""

import keras

from keras_glimpse._validation.arguments import check_layers


def one_for_each_glimpse(name: str, net, num_glimpses: int, share_weights: bool) -> list:
    """A network for each glimpse, given as the argument `name`: those given, the same one for all, or `net` and clones of it.

    Clones start from random weights of their own, or, where `net` has weights already, from the same ones.

    Raises:
        ValueError: a list of the wrong length, or one that is to be shared; or a network that cannot be cloned.
    """
    if isinstance(net, list | tuple):
        if len(net) != num_glimpses:
            raise ValueError(f"{name} must be one layer or {num_glimpses}, one a glimpse; got {len(net)}.")
        if share_weights and num_glimpses > 1:
            raise ValueError(f"share_weights=True needs one {name} for all glimpses; got a list.")
        for each in net:
            check_layers(**{name: each})
        return list(net)
    check_layers(**{name: net})
    if share_weights or num_glimpses == 1:
        return [net] * num_glimpses
    return [net, *(_clone(name, net, n) for n in range(2, num_glimpses + 1))]


def _clone(name: str, net: keras.Layer, n: int):
    try:
        config = net.get_config()
        clone = type(net).from_config(config | {"name": f"{config['name']}_{n}"})
    except Exception as error:  # Whatever a user's get_config or from_config may raise.
        raise ValueError(
            f"{net.name} cannot be cloned for glimpse {n}: pass a list with one for each glimpse as {name}."
        ) from error
    if net.built and not clone.built:
        clone.build_from_config(net.get_build_config())
    if net.weights:  # Also of a network that is not built, but has a backbone that is.
        clone.set_weights(net.get_weights())
    return clone
