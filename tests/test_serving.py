"""What TensorFlow Serving finds in a SavedModel beside the graph, and the files that it is deployed with."""

import csv
import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2

import keras_glimpse

DEPLOYED = Path(__file__).parent.parent / "recipes" / "deploy" / "serving"
NAMES, THRESHOLD = ("red", "vert", "zöld", "синий"), 0.8
FILE = "assets.extra/tf_serving_warmup_requests"
PARAMETERS = ("max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads")
SIGNATURES = {"serving_default", "uint8", "classify", "explain", "portable", "encoded"}

REPLAY = """
import sys
sys.modules["keras"] = sys.modules["keras_glimpse"] = None  # Whatever imports them fails.
import pickle, tensorflow as tf
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
signatures, answers = tf.saved_model.load(sys.argv[1]).signatures, []
for record in tf.data.TFRecordDataset(sys.argv[1] + "/assets.extra/tf_serving_warmup_requests"):
    request = PredictionLog.FromString(record.numpy()).predict_log.request
    inputs = {name: tf.make_ndarray(value) for name, value in request.inputs.items()}
    name = request.model_spec.signature_name
    found = signatures[name](**{key: tf.constant(value) for key, value in inputs.items()})
    answers.append((name, inputs, {key: value.numpy() for key, value in found.items()}))
pickle.dump(answers, open(sys.argv[2], "wb"))
"""


def sharp(make_model, **arguments):
    """A model with large weights and class names, and images of which some stop after each stage."""
    model = make_model(num_classes=4, num_glimpses=2, class_names=NAMES, **arguments)
    for net in (model.low_res_net, *model.glimpse_nets):
        net.set_weights([4 * weights for weights in net.get_weights()])
    coarse = np.random.default_rng(0).random((60, 5, 6, 1)) * np.linspace(10, 255, 60)[:, None, None, None]
    return model, coarse.repeat(4, axis=1).repeat(4, axis=2).astype(np.uint8)


@pytest.fixture(scope="module")
def exported(make_model, tmp_path_factory):
    """The model, its images and its SavedModel, with warm-up requests."""
    keras.utils.set_random_seed(0)
    model, images = sharp(make_model)
    folder = tmp_path_factory.mktemp("exported") / "1"
    keras_glimpse.export_saved_model(model, folder, THRESHOLD, warmup=images)
    return model, images, folder


# ---- Warm-up requests ----


def requests(folder):
    """Of each signature, the shapes of its requests."""
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    found = {}
    for record in tf.data.TFRecordDataset(str(folder / FILE)).as_numpy_iterator():
        request = PredictionLog.FromString(record).predict_log.request
        ((name, value),) = request.inputs.items()
        found.setdefault(request.model_spec.signature_name, []).append((name, *tf.make_ndarray(value).shape))
    return found


def test_requests_of_each_signature(exported):
    *_, folder = exported
    both = [("images", 1, 20, 24, 1), ("images", 8, 20, 24, 1)]
    assert requests(folder) == {
        **dict.fromkeys(["serving_default", "uint8", "classify", "explain"], both),
        "portable": [both[0], both[0]],
        "encoded": [("encoded", 1), ("encoded", 16)],  # A PNG and a JPEG of each.
    }


def test_damage_is_found(exported, tmp_path):
    folder = shutil.copytree(exported[2], tmp_path / "1")
    keras_glimpse.check_file(folder)
    (folder / FILE).write_bytes((folder / FILE).read_bytes()[:-1])
    with pytest.raises(ValueError, match="tf_serving_warmup_requests does not match its recorded checksum"):
        keras_glimpse.check_file(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sides", "threshold", "dtype"), [((20, 24), THRESHOLD, "uint8"), ((None, None), THRESHOLD, "float32")]
)
def test_replayed_in_a_bare_process(make_model, tmp_path, sides, threshold, dtype):
    """Requests are answered as by Keras; those of each signature have an image that stops first, and one that stops last."""
    model, images = sharp(make_model, image_shape=(*sides, 1))
    given = images if dtype == "uint8" else images / np.float32(255)
    keras_glimpse.export_saved_model(model, tmp_path / "1", threshold, warmup=given)
    command = [sys.executable, "-c", REPLAY, tmp_path / "1", tmp_path / "answers"]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    replayed = np.load(tmp_path / "answers", allow_pickle=True)
    stages = lambda images: keras_glimpse.cascade_predict(model, images, threshold or 1.0).exit_stage  # noqa: E731
    least, reached = min(stages(images)), {}
    for name, inputs, answer in replayed:
        (value,) = inputs.values()
        value = [*value] if name == "encoded" else value
        expected = keras_glimpse.cascade_predict(model, value, threshold or 1.0)
        reached.setdefault(name, set()).update(expected.exit_stage.tolist())
        check_answer(name, answer, expected)
    assert {*reached} == SIGNATURES and least == (0 if threshold else 2)
    assert all(min(stages) == least and max(stages) == 2 for stages in reached.values()), reached


def check_answer(name, answer, expected):
    atol = 0.02 if name == "encoded" else 1e-4  # Keras reads what scale 2 sees from a smaller level of a JPEG.
    found = {key: value for key, value in answer.items() if key not in ("macs", "locations")}
    if name == "explain":
        found["probabilities"] = found.pop("stage_probabilities")[np.arange(len(expected.exit_stage)), expected.exit_stage]
    if "classes" in found:
        first = [classes[0].decode() for classes in found.pop("classes")]
        assert first == [NAMES[n] for n in expected.probabilities.argmax(axis=1)]
        np.testing.assert_allclose(found.pop("scores"), np.sort(expected.probabilities)[:, ::-1], atol=atol)
    if "exit_stage" in found:
        np.testing.assert_array_equal(found.pop("exit_stage"), expected.exit_stage)
    if name != "classify":
        np.testing.assert_allclose(found.pop("probabilities"), expected.probabilities, atol=atol)
    assert not found


@pytest.mark.slow
@pytest.mark.parametrize("channels", [2, 4])
def test_other_channels(make_model, tmp_path, rng, channels):
    """Of four, TensorFlow decodes PNGs, but no JPEGs; of two, neither."""
    model = make_model((20, 24, channels), num_glimpses=1)
    images = rng.integers(0, 256, (3, 20, 24, channels), np.uint8)
    keras_glimpse.export_saved_model(model, tmp_path / "1", warmup=images)
    encoded = tf.saved_model.load(str(tmp_path / "1")).signatures.get("encoded")
    assert requests(tmp_path / "1").get("encoded") == ([("encoded", 1), ("encoded", 3)] if channels == 4 else None)
    if encoded:
        files = tf.stack([tf.io.encode_png(image) for image in images])
        np.testing.assert_allclose(encoded(encoded=files)["probabilities"], tf.nn.softmax(model(images)), atol=1e-5)
    assert (encoded is None) == (channels == 2)


@pytest.mark.parametrize(
    ("warmup", "error", "message"),
    [
        (np.zeros((3, 20, 24), np.uint8), ValueError, r"Expected warm-up images .*; got an array of shape \(3, 20, 24\)"),
        (["a.png", "b.png"], ValueError, r"Expected warm-up images .*; got an array of shape \(2,\)"),
        (np.zeros((3, 20, 20, 1), np.uint8), ValueError, r"built for images \(20, 24, 1\); got images \(20, 20, 1\)"),
        (np.zeros((3, 20, 24, 1), np.int64), TypeError, "Expected images of floats, uint8 or uint16; got int64"),
        (np.zeros((0, 20, 24, 1), np.uint8), ValueError, "at least one image; got none"),
        (np.full((1, 20, 24, 1), np.nan), ValueError, "finite numbers; got some that are infinite"),
    ],
)
def test_bad_images(make_model, tmp_path, warmup, error, message):
    with pytest.raises(error, match=message):
        keras_glimpse.export_saved_model(make_model(), tmp_path / "1", 0.9, warmup=warmup)
    assert [*tmp_path.iterdir()] == []


def test_images_that_stop_too_early(make_model, tmp_path):
    model, images = sharp(make_model)
    with pytest.raises(ValueError, match=r"every glimpse is needed at threshold 0.01; of 60, \[60, 0, 0\] stop after 0, 1"):
        keras_glimpse.export_saved_model(model, tmp_path / "1", 0.01, warmup=images)
    assert [*tmp_path.iterdir()] == []


def test_without_the_package(make_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_serving.apis", None)
    with pytest.raises(ImportError, match=r"tensorflow-serving-api: pip install keras-glimpse\[serving\]"):
        keras_glimpse.export_saved_model(make_model(), tmp_path / "1", warmup=np.zeros((1, 20, 24, 1), np.uint8))
    assert [*tmp_path.iterdir()] == []


# ---- Signatures ----


def test_classes_by_name(exported):
    model, images, folder = exported
    signatures = tf.saved_model.load(str(folder)).signatures
    expected = keras_glimpse.cascade_predict(model, images, THRESHOLD).probabilities
    files = [tf.io.encode_png(image).numpy() for image in images]
    for found in (
        signatures["classify"](images=tf.constant(images / np.float32(255))),
        signatures["encoded"](encoded=tf.constant(files)),
    ):
        classes = [[each.decode() for each in row] for row in found["classes"].numpy()]
        assert classes == [[NAMES[n] for n in row] for row in np.argsort(-expected, axis=1)]
        np.testing.assert_allclose(found["scores"], -np.sort(-expected, axis=1), atol=1e-4)
    assert {*signatures["classify"].structured_outputs} == {"classes", "scores"}  # No more, as in the Classify API.


@pytest.mark.slow
def test_classes_without_names(make_model, tmp_path):
    keras_glimpse.export_saved_model(make_model(), tmp_path / "1")
    classify = tf.saved_model.load(str(tmp_path / "1")).signatures["classify"]
    (found,) = classify(images=tf.zeros((1, 20, 24, 1)))["classes"].numpy().tolist()
    assert sorted(found) == [b"0", b"1", b"2"]


@pytest.mark.slow
def test_saved_model_cli(exported):
    command = [Path(sys.executable).with_name("saved_model_cli"), "show", "--dir", exported[2], "--all"]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    sections = {part.split("'")[0]: part for part in said.split("signature_def['")[1:]}
    assert {*sections} == SIGNATURES | {"__saved_model_init_op"}
    tensors = {
        "serving_default": [("images", "FLOAT", "(-1, 20, 24, 1)"), ("probabilities", "FLOAT", "(-1, 4)")],
        "uint8": [("images", "UINT8", "(-1, 20, 24, 1)"), ("probabilities", "FLOAT", "(-1, 4)")],
        "classify": [("images", "FLOAT", "(-1, 20, 24, 1)"), ("classes", "STRING", "(-1, 4)"), ("scores", "FLOAT", "(-1, 4)")],
        "explain": [
            ("images", "FLOAT", "(-1, 20, 24, 1)"),
            ("exit_stage", "INT32", "(-1)"),
            ("locations", "FLOAT", "(-1, 2, 2)"),
            ("macs", "INT64", "(-1)"),
            ("stage_probabilities", "FLOAT", "(-1, 3, 4)"),
        ],
        "portable": [
            ("images", "FLOAT", "(1, 20, 24, 1)"),
            ("exit_stage", "INT32", "(1)"),
            ("probabilities", "FLOAT", "(1, 4)"),
        ],
        "encoded": [
            ("encoded", "STRING", "(-1)"),
            ("classes", "STRING", "(-1, 4)"),
            ("exit_stage", "INT32", "(-1)"),
            ("probabilities", "FLOAT", "(-1, 4)"),
            ("scores", "FLOAT", "(-1, 4)"),
        ],
    }
    tensor = re.compile(r"puts\['(.*)'\] tensor_info:\n +dtype: DT_(.*)\n +shape: (.*)\n")
    for name, expected in tensors.items():
        assert tensor.findall(sections[name]) == expected
        assert "Method name is: tensorflow/serving/predict" in sections[name]


# ---- How it is deployed ----


def batching_parameters(text):
    """Parsed as `BatchingParameters` of TensorFlow Serving's session_bundle_config.proto, which its Python package lacks."""
    file = descriptor_pb2.FileDescriptorProto(name="batching.proto", package="tensorflow.serving", syntax="proto3")
    file.dependency.append("google/protobuf/wrappers.proto")
    message = file.message_type.add(name="BatchingParameters")
    for number, name in enumerate(PARAMETERS, start=1):
        message.field.add(name=name, number=number, type="TYPE_MESSAGE", type_name="google.protobuf.Int64Value")
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.AddSerializedFile(file.SerializeToString())
    kind = message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters"))
    return {field.name: value.value for field, value in text_format.Parse(text, kind()).ListFields()}


@pytest.fixture(scope="module")
def batching():
    return importlib.import_module("batching")


def test_batching_parameters_are_those_measured(batching):
    text = (DEPLOYED / "batching.txt").read_text()
    with (DEPLOYED.parents[1] / "results" / "benchmark_serving.csv").open() as file:
        rows = [{name: float(value) for name, value in row.items() if name != "commit"} for row in csv.DictReader(file)]
    assert text == batching.parameters([row | {name: int(row[name]) for name in ("batch", "threads")} for row in rows])
    parameters = batching_parameters(text)
    assert {*parameters} == {*PARAMETERS} and min(parameters.values()) >= 1
    with pytest.raises(text_format.ParseError):
        batching_parameters(text.replace("max_batch_size {", "max_batch {"))


def test_parameters_follow_from_rows(batching):
    rows = [
        {"batch": batch, "threads": threads, "images/s": speed, "p50 ms": 0.25, "p99 ms": 1.0}
        for batch, threads, speed in [
            (1, 1, 3000.0),
            (32, 1, 60_000.0),
            (32, 4, 91_000.0),
            (32, 8, 95_000.0),
            (128, 1, 100_000.0),
        ]
    ]
    assert batching_parameters(batching.parameters(rows)) == {
        "max_batch_size": 32,
        "num_batch_threads": 4,
        "batch_timeout_micros": 250,
        "max_enqueued_batches": 2844,
    }


def arguments_of(lines):
    return dict(line.removeprefix("--").split("=") for line in lines)


def test_compose_file():
    (service,) = yaml.safe_load((DEPLOYED / "compose.yaml").read_text())["services"].values()
    mounts = [volume.split(":") for volume in service["volumes"]]
    inside = {target: source for source, target, mode in mounts if mode == "ro"}
    arguments = arguments_of(service["command"])
    assert (DEPLOYED / inside[arguments["batching_parameters_file"]]).is_file() and arguments["enable_batching"] == "true"
    assert "/models" in inside and f"/v1/models/{service['environment']['MODEL_NAME']} " in service["healthcheck"]["test"][-1]


def test_kubernetes_manifest():
    deployment, service = yaml.safe_load_all((DEPLOYED / "kubernetes.yaml").read_text())
    (generated,) = yaml.safe_load((DEPLOYED / "kustomization.yaml").read_text())["configMapGenerator"]
    pod = deployment["spec"]["template"]
    (container,) = pod["spec"]["containers"]
    assert deployment["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"] == service["spec"]["selector"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {port["targetPort"] for port in service["spec"]["ports"]} == {*ports} and ports == {"grpc": 8500, "http": 8501}
    probe, (name,) = container["readinessProbe"]["httpGet"], (each["value"] for each in container["env"])
    assert probe == {"path": f"/v1/models/{name}", "port": "http"}
    volumes = {volume["name"]: volume for volume in pod["spec"]["volumes"]}
    paths = {mount["mountPath"]: volumes[mount["name"]] for mount in container["volumeMounts"]}
    folder, file = arguments_of(container["args"])["batching_parameters_file"].rsplit("/", 1)
    assert paths[folder]["configMap"]["name"] == generated["name"] and generated["files"] == [file]
    assert paths["/models"]["persistentVolumeClaim"]["readOnly"]
    parameters = batching_parameters((DEPLOYED / file).read_text())
    assert int(container["resources"]["requests"]["cpu"]) == parameters["num_batch_threads"]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("kubectl"), reason="There is no kubectl.")
def test_kubectl_reads_it():
    command = ["kubectl", "kustomize", DEPLOYED]
    built = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
    kinds = {each["kind"]: each for each in yaml.safe_load_all(built)}
    assert {*kinds} == {"ConfigMap", "Deployment", "Service"}
    assert kinds["ConfigMap"]["data"]["batching.txt"] == (DEPLOYED / "batching.txt").read_text()
