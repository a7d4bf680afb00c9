"""How fuzz.py spoils bytes, JSON, protocol buffers, flat buffers and folders, at random."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import flatbuffers
import keras
import numpy as np
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.lite.python import schema_py_generated as schema

ODD = [None, True, -1, 0, 1, 3, 0.5, 10**9, 10**30, 1e308, float("nan"), "", "x", "keras", "A" * 100_000]
ODD += [[], [0], [-1, -1], {}, {"a": 1}, [[[]]]]


class Insane(Exception):
    """An answer that cannot be, where there should have been an error."""


class Case(NamedTuple):
    """How something was spoiled, what to do with it, and the answer if there can be only one."""

    spoiled: str
    attempt: Callable[[], np.ndarray]
    expected: np.ndarray | None = None


def spoil_bytes(rng, content: bytes) -> tuple[bytes, str]:
    how = rng.choice(["truncated", "empty", "bits", "zeros", "noise", "cut", "repeated", "appended"])
    start = rng.randrange(len(content))
    end = min(len(content), start + 2 ** rng.randrange(13))
    head, block, tail = content[:start], content[start:end], content[end:]
    new = {
        "truncated": lambda: head,
        "empty": lambda: b"",
        "bits": lambda: flipped(rng, content),
        "zeros": lambda: head + bytes(len(block)) + tail,
        "noise": lambda: head + rng.randbytes(len(block)) + tail,
        "cut": lambda: head + tail,
        "repeated": lambda: head + block + block + tail,
        "appended": lambda: content + rng.randbytes(len(block)),
    }
    return new[how](), f"{how} at {start} of {len(content)}, {len(block)} bytes"


def flipped(rng, content):
    content = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(content)


def spoil_file(rng, folder: Path) -> str:
    """One file of a folder: damaged, removed, or with the content of another; or all removed."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rng.choice(files)
    how = rng.choice(["damaged", "damaged", "damaged", "removed", "that of another", "all removed"])
    if how == "damaged":
        content, how = spoil_bytes(rng, path.read_bytes())
        path.write_bytes(content)
    elif how == "that of another":
        path.write_bytes(rng.choice(files).read_bytes())
    else:
        for each in files if how == "all removed" else [path]:
            each.unlink()
    return f"{path.name} {how}"


def spoil_parts(rng, parts: list) -> tuple[list, str]:
    """One part of a zip archive, of (name, content): removed, twice, or with another name or content; or one outside."""
    how, chosen = rng.choice(["removed", "twice", "renamed", "that of another", "outside"]), rng.randrange(len(parts))
    name, content = parts[chosen]
    others = parts[:chosen] + parts[chosen + 1 :]
    new = {
        "removed": [],
        "twice": [parts[chosen], (name, spoil_bytes(rng, content)[0])],
        "renamed": [(name + "_", content)],
        "that of another": [(name, rng.choice(others)[1])],
        "outside": [parts[chosen], ("../../outside", b"")],
    }
    return others + new[how], f"{name} {how}"


def spoil_npz(rng, source: Path, path: Path, arrays: dict) -> str:
    """Writes `arrays` to `path`, but for something: as `source` has them, with damaged bytes, or without one, or another."""
    path.parent.mkdir()
    how = rng.choice(["bytes", "removed", "shape", "dtype", "objects", "labels"])
    name = rng.choice(sorted(arrays))
    if how == "bytes":
        content, spoiled = spoil_bytes(rng, source.read_bytes())
        path.write_bytes(content)
        return f"npz: {spoiled}"
    changed = {
        "removed": {},
        "shape": {name: arrays[name][..., :-1]},
        "dtype": {name: arrays[name].astype(rng.choice(["float32", "complex64", "U3", "bool"]))},
        "objects": {name: arrays[name].astype(object)},
        "labels": {"y_train": arrays["y_train"] + 9},
    }
    np.savez(path, **{key: value for key, value in arrays.items() if key != name} | changed[how])
    return f"npz: {name} {how}"


def spoil_json(rng, tree, evil: list) -> tuple[object, str]:
    """Something in the tree replaced, removed, renamed, or by something else of it; or by one of `evil`."""
    tree = copy.deepcopy(tree)
    places = list(places_in(tree))
    parent, key = rng.choice(places)
    how = rng.choice(["replaced", "replaced", "removed", "renamed", "that of another", *(["evil"] if evil else [])])
    if how == "removed":
        del parent[key]
    elif how == "renamed" and isinstance(parent, dict):
        parent[f"{key}_"] = parent.pop(key)
    else:
        other, its_key = rng.choice(places)
        value = rng.choice(evil) if how == "evil" else other[its_key] if how == "that of another" else rng.choice(ODD)
        parent[key] = copy.deepcopy(value)
        how += f" {str(value)[:80]}"
    return tree, f"{key} {how}"


def places_in(tree):
    """All (container, key) of a tree of dicts and lists."""
    for key, value in list(tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()):
        yield tree, key
        yield from places_in(value)


def evil(trap: Path) -> list[dict]:
    """Configurations that would write the file `trap`, or get near it, if they were obeyed."""
    code = eval(f"lambda values: __import__('pathlib').Path({str(trap)!r}).touch() or values")
    layer = keras.saving.serialize_keras_object(keras.layers.Lambda(code))
    command = ["touch", str(trap)]
    return [
        layer,
        layer["config"]["function"],
        {"module": "os", "class_name": "system", "config": {"command": " ".join(command)}, "registered_name": "system"},
        {"module": "os", "class_name": "function", "config": "system", "registered_name": "system"},
        {"module": "subprocess", "class_name": "Popen", "config": {"args": command}, "registered_name": "Popen"},
        {"module": "builtins", "class_name": "function", "config": "exec", "registered_name": "exec"},
        {"module": "keras.utils", "class_name": "get_file", "config": {"origin": "file:///etc/hostname", "fname": str(trap)}},
    ]


def spoil_proto(rng, content: bytes) -> tuple[bytes, str]:
    """Some field, somewhere in the graph of a SavedModel."""
    message = saved_model_pb2.SavedModel.FromString(content)
    graph = message.meta_graphs[0]
    target = rng.choice([graph.graph_def, graph.object_graph_def, graph.signature_def["serving_default"]])
    if target is graph.graph_def:
        target = rng.choice(rng.choice(target.library.function).node_def)
    trail = []
    while True:
        fields = target.ListFields()
        if not fields:
            target.Clear()
            break
        field, value = rng.choice(fields)
        trail.append(field.name)
        value, is_last = stepped_into(rng, target, field, value)
        if is_last:
            break
        target = value
    return message.SerializeToString(), f"graph: {'/'.join(trail)}"


def stepped_into(rng, message, field, value):
    """A message inside of a field and False; or, after something in it was changed, None and True."""
    if rng.random() < 0.1:
        message.ClearField(field.name)
        return None, True
    if hasattr(value, "keys"):
        key = rng.choice(sorted(value))
        if hasattr(value[key], "ListFields") and rng.random() > 0.1:
            return value[key], False
        del value[key]
        return None, True
    if field.message_type is not None:
        return (rng.choice(value) if hasattr(value, "append") else value), False
    if hasattr(value, "append"):
        place = rng.randrange(len(value))
        value[place] = odd_like(rng, value[place])
    else:
        setattr(message, field.name, odd_like(rng, value))
    return None, True


def odd_like(rng, value):
    """Another value of the same type, that fits in 32 bits."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return rng.choice([0, 1, 3, 2**31 - 1])
    if isinstance(value, float):
        return rng.choice([0.0, -1.0, 1e38])
    return rng.choice([value[:0], value[:-1], value + value[:1], value[::-1]])


def spoil_flatbuffer(rng, content: bytes) -> tuple[bytes, str]:
    """Some number, table or list, somewhere in a LiteRT file."""
    while True:
        model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
        trail = spoil_object(rng, model)
        builder = flatbuffers.Builder()
        try:
            builder.Finish(model.Pack(builder), b"TFL3")
        except Exception:  # What cannot be written is no file.
            continue
        return bytes(builder.Output()), f"object: {trail}"


def spoil_object(rng, table) -> str:
    fields = {name: value for name, value in vars(table).items() if value is not None and not isinstance(value, bytes)}
    name = rng.choice(sorted(fields))
    value = fields[name]
    if isinstance(value, int | float | np.number):
        setattr(table, name, rng.choice([0, 1, -1, 100, 2**31 - 1]))
    elif isinstance(value, np.ndarray | list) and len(value) and rng.random() < 0.9:
        place = rng.randrange(len(value))
        if hasattr(value[place], "__dict__"):
            return f"{name}[{place}]/{spoil_object(rng, value[place])}"
        value = value.copy()
        value[place] = rng.choice([0, 1, 100])
        setattr(table, name, value)
    elif hasattr(value, "__dict__") and rng.random() < 0.9:
        return f"{name}/{spoil_object(rng, value)}"
    else:
        setattr(table, name, None)
    return name
