"""Model cards: what a user of a model should know, in the format of the Hugging Face Hub."""

from collections.abc import Mapping, Sequence
from textwrap import fill

import numpy as np

from keras_glimpse import hub
from keras_glimpse._validation.arguments import check_built_classifier, check_exportable
from keras_glimpse.cascade.curve import CascadeCurve
from keras_glimpse.cascade.macs import known_stage_macs

TAGS = ["keras-glimpse", "early-exit"]
TASK = "image-classification"
USUAL_THRESHOLD = 0.95  # In examples, where none was measured.
USUAL_SIDE = 512  # In examples of models of images that differ in size.
MOST_THRESHOLDS = 10


def model_card(
    model,
    name: str,
    *,
    about: str | None = None,
    license: str | None = None,
    data: str | None = None,
    dataset: str | None = None,
    errors: Sequence[float] | None = None,
    cascade: CascadeCurve | None = None,
    facts: Mapping[str, str] | None = None,
    notes: str | None = None,
) -> str:
    """Writes a model card: Markdown with metadata in YAML, as the Hugging Face Hub has it. Requires `keras-glimpse[hub]`.

    Image shape, class names, number of weights and costs are read from the model. Everything else is what is passed; what is
    not known is left out. Examples for Keras, TensorFlow Serving, LiteRT, ONNX Runtime and LiteRT.js follow, without those that
    cannot run the model.

    Args:
        model: A built `GlimpseClassifier`.
        name: String, what `load_pretrained` takes: `"hf://user/name"`, or the name of a pretrained model of the package.
        about: Optional string, what the model is for. Defaults to `None`.
        license: Optional string, an identifier of the Hub such as `"apache-2.0"`. Defaults to `None`.
        data: Optional string, what the model was trained and tested on. Defaults to `None`.
        dataset: Optional string, the name of the test data in the Hub's metadata, which have the accuracy only if it is given.
            Defaults to `None`.
        errors: Optional sequence of floats in [0, 1], the fraction of test images misclassified after 0, 1, ... glimpses.
            Defaults to `None`.
        cascade: Optional result of `cascade_curve` on the test images, at the threshold to be used or at a few of them; the
            examples have the first. Defaults to `None`.
        facts: Optional dictionary of further facts, by what they are about: `{"Limits": "..."}`. Defaults to `None`.
        notes: Optional string, Markdown to put in front of the examples, such as a table. Defaults to `None`.

    Returns:
        String, the content of a `README.md`.

    Raises:
        TypeError: If `model` is not a `GlimpseClassifier`, or `cascade` not a `CascadeCurve`.
        ValueError: If the model is not built, `name` starts with `hf://` and is not `hf://user/name`, errors are not in
            [0, 1] or more than the model has stages, or `cascade` has more than ten thresholds.
        ImportError: If huggingface_hub is not installed.

    Example:
    >>> from keras_glimpse import GlimpseClassifier
    >>> model = GlimpseClassifier(num_classes=2, class_names=["clean", "defective"])
    >>> model.build((None, 48, 48, 1))
    >>> card = model_card(model, "hf://user/boards", license="mit", errors=[0.2, 0.031, 0.029], dataset="our boards")
    >>> "- **Test error**: 20.00 % after 0, 3.10 % after 1, 2.90 % after 2 glimpses." in card
    True
    """
    check_built_classifier("model_card", model)
    title = (hub.repository_of(name) if hub.is_on_hub(name) else name).split("/")[-1]
    _check_measured(model, errors, cascade)
    bullets = _of_model(model) | {"Data": data} | _measured(errors, cascade) | {"License": license} | dict(facts or {})
    threshold = USUAL_THRESHOLD if cascade is None else float(cascade.thresholds[0])
    parts = [
        f"---\n{_metadata(model, title, license, dataset, errors)}\n---",
        f"# {title}",
        about and "\n\n".join(map(_filled, about.split("\n\n"))),
        "\n".join(_filled(f"- **{what}**: {fact}", subsequent_indent="  ") for what, fact in bullets.items() if fact),
        notes,
        *(f"## {runtime}\n\n{example}" for runtime, example in _examples(model, name, title, f"{threshold:.4g}").items()),
    ]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _filled(text, **indent):
    return fill(text, 128, break_long_words=False, break_on_hyphens=False, **indent)


def _check_measured(model, errors, cascade):
    if errors is not None:
        stages = model.num_glimpses + 1
        if not np.iterable(errors) or not 0 < len(errors) <= stages or not all(0 <= error <= 1 for error in errors):
            raise ValueError(f"errors must be fractions in [0, 1], at most {stages}, one for each stage; got {errors!r}.")
    if cascade is not None:
        if not isinstance(cascade, CascadeCurve):
            raise TypeError(f"cascade must be a CascadeCurve, the result of cascade_curve; got {type(cascade).__name__}.")
        if not 0 < len(cascade.thresholds) <= MOST_THRESHOLDS:
            raise ValueError(f"cascade must have 1 to {MOST_THRESHOLDS} thresholds; got {len(cascade.thresholds)}.")


# ---- Facts ----


def _metadata(model, title, license, dataset, errors):
    """YAML, by the library that reads it on the Hub."""
    library, results = hub.library(), []
    if dataset and errors is not None and len(errors) > model.active_glimpses:
        accuracy = round(1 - float(errors[model.active_glimpses]), 6)
        results.append(library.EvalResult(TASK, dataset, dataset, "accuracy", accuracy))
    return library.ModelCardData(
        library_name="keras",
        license=license,
        pipeline_tag=TASK,
        tags=TAGS,
        metrics=["accuracy"] if errors is not None else None,
        model_name=title if results else None,
        eval_results=results or None,
    ).to_yaml()


def _of_model(model):
    *sides, channels = model.image_shape
    size = "any size" if None in sides else f"{sides[0]}x{sides[1]} pixels"
    scaled = "" if model.preprocess else "unsigned integers, which are scaled to [0, 1], or "
    names, macs, last = model.class_names, known_stage_macs(model), model.active_glimpses
    return {
        "Model": f"a `{type(model).__name__}` of {model.count_params():,} weights. It sees a thumbnail, then up to "
        f"{_glimpses(last)}, and can stop as soon as a class is probable enough.",
        "Input": f"images of {size}, {channels} channel{'s' * (channels != 1)}; {scaled}floats as in training.",
        "Classes": f"{model.num_classes}" + (f", in this order: {', '.join(names)}" if names else "") + ".",
        "Cost": None
        if macs is None
        else f"{', '.join(f'{cost:,}' for cost in macs)} multiply-accumulates after 0 to {_glimpses(last)}.",
    }


def _measured(errors, cascade):
    facts = {}
    if errors is not None:
        after_each = ", ".join(f"{100 * error:.2f} % after {n}" for n, error in enumerate(errors))
        facts["Test error"] = f"{after_each} {'glimpses' if len(errors) != 2 else 'glimpse'}."
    for n, threshold in enumerate(cascade.thresholds if cascade else ()):
        cost = "" if cascade.macs is None else f", {cascade.macs[n]:,.0f} multiply-accumulates on average"
        facts[f"Cascade at {threshold:.4g}"] = f"test error {100 * cascade.errors[n]:.2f} %{cost}."
    return facts


def _glimpses(count):
    return f"{count} glimpse{'s' * (count != 1)}"


# ---- Examples ----


def _examples(model, name, title, threshold):
    """By the name of the runtime. They follow one another: the first has what the others start from."""
    shape = (1, *(side or max(USUAL_SIDE, least) for side, least in zip(model.image_shape, model.least_sides)), model.channels)
    scale = "" if model.preprocess else " / 255"
    size = f", image_shape={shape[1:3]}" if None in model.image_shape else ""
    examples = {
        "Keras": _keras(name, shape, scale, threshold),
        "TensorFlow Serving": _serving(title, threshold),
    }
    if _is_portable(model):
        examples |= {
            "LiteRT": _litert(title, f"threshold={threshold}{size}"),
            "ONNX Runtime": _onnx(title, f"threshold={threshold}{size}"),
            "In the browser": _browser(title, shape),
        }
    return examples


def _is_portable(model) -> bool:
    try:
        check_exportable("", model, None, float32=True, quantized=("int8",))
    except ValueError:
        return False
    return True


def _keras(name, shape, scale, threshold):
    extras = "tensorflow,hub" if hub.is_on_hub(name) else "tensorflow"
    return f"""`pip install "keras-glimpse[{extras}]"`

```python
import keras_glimpse
import numpy as np

model = keras_glimpse.load_pretrained("{name}")
images = np.zeros({shape}, "uint8")
floats = images.astype("float32"){scale}
result = keras_glimpse.cascade_predict(model, floats, threshold={threshold})
print(result.probabilities, result.exit_stage)
```"""


def _serving(title, threshold):
    return f"""```python
import os

os.makedirs("{title}", exist_ok=True)
keras_glimpse.export_saved_model(model, "{title}/1", threshold={threshold})
```

```sh
tensorflow_model_server --rest_api_port=8501 --model_name={title} --model_base_path="$PWD/{title}"
```

answers a POST of `json.dumps({{"instances": floats.tolist()}})` to `http://localhost:8501/v1/models/{title}:predict`."""


def _litert(title, options):
    return f"""`pip install ai-edge-litert`; the file is for Android and iOS too.

```python
from ai_edge_litert.interpreter import Interpreter

keras_glimpse.export_litert(model, "{title}.tflite", {options})
classify = Interpreter("{title}.tflite", num_threads=1).get_signature_runner()
answer = classify(images=floats)
print(answer["probabilities"], answer["exit_stage"])
```"""


def _onnx(title, options):
    return f"""`pip install "keras-glimpse[onnx]"`

```python
import onnxruntime

keras_glimpse.export_onnx(model, "{title}.onnx", {options})
session = onnxruntime.InferenceSession("{title}.onnx")
probabilities, exit_stage = session.run(["probabilities", "exit_stage"], {{"images": floats}})
```"""


def _browser(title, shape):
    return f"""`npm install @litertjs/core`; the file is that of LiteRT.

```js
import {{loadAndCompile, loadLiteRt, Tensor}} from "@litertjs/core";

await loadLiteRt("node_modules/@litertjs/core/wasm/");
const model = await loadAndCompile("{title}.tflite", {{accelerator: "wasm"}});
const images = new Tensor(new Float32Array({shape[1]} * {shape[2]} * {shape[3]}), {list(shape)});
const answer = await model.run({{images}});
console.log(answer.probabilities.toTypedArray(), answer.exit_stage.toTypedArray());
```"""
