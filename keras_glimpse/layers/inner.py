"""Sublayers that were changed after construction (quantized, frozen, LoRA) survive saving and cloning."""

OPTIONS = {  # Attributes of `Dense` that may change after construction, with their defaults.
    "trainable": True,
    "lora_rank": None,
    "lora_alpha": None,
    "quantization_config": None,
    "kernel_regularizer": None,
    "bias_regularizer": None,
    "activity_regularizer": None,
    "kernel_constraint": None,
    "bias_constraint": None,
    "inner": None,
}


class KeepsInner:
    """A Keras layer that makes its sublayers itself, and saves and clones them as they are now.

    `quantize`, `enable_lora`, a dtype policy, `trainable` and regularizers change a sublayer, which the layer's own
    config does not record. Here the config gets one more entry, `inner`, if any sublayer was changed.
    """

    inner = ()  # Names of the attributes that are such sublayers, lists of them, or None.

    def _inner_layers(self, name):
        layers = getattr(self, name)
        return [] if layers is None else layers if isinstance(layers, list | tuple) else [layers]

    def _changes(self, layer):
        config = layer.get_config()
        changes = {name: config[name] for name, plain in OPTIONS.items() if config.get(name) != plain}
        return changes | ({"dtype": config["dtype"]} if layer.dtype_policy != self.dtype_policy else {})

    def get_config(self):
        inner = {name: [self._changes(layer) for layer in self._inner_layers(name)] for name in self.inner}
        return super().get_config() | ({"inner": inner} if any(map(any, inner.values())) else {})

    @classmethod
    def from_config(cls, config):
        layer = super().from_config({name: value for name, value in config.items() if name != "inner"})
        layer.change_inner(config.get("inner", {}))
        return layer

    def change_inner(self, inner: dict[str, list[dict]]) -> None:
        """Applies the entry `inner` of a config to the sublayers, which are not built yet."""
        for name in self.inner:
            for layer, changes in zip(self._inner_layers(name), inner.get(name, [])):
                changed = type(layer).from_config(layer.get_config() | changes)
                for option in changes.keys() - {"inner", "dtype"}:
                    setattr(layer, option, getattr(changed, option))
                layer.dtype_policy = changed.dtype_policy
                if "inner" in changes:
                    layer.change_inner(changes["inner"])
