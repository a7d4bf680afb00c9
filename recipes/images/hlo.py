"""A training step as a program of XLA, with the values of its inputs: what `images/run_programs.py` reads."""

import hashlib
import pickle
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from tensorflow.compiler.xla.service import hlo_pb2


def variables(model: keras.Model) -> list[keras.Variable]:
    """All that training changes: weights first, the state of metrics last."""
    found = [*model.variables, *model.optimizer.variables, *model.metrics_variables]
    return list({id(variable): variable for variable in found}.values())


def write(path: Path, function: Callable, model: keras.Model, given: Mapping[str, tf.Variable], epochs: int) -> None:
    """Writes `<path>.hlo`, the program, and `<path>.pkl`, its inputs; arrays that programs share are in the folder above.

    Args:
        path: Of the files, without their suffix.
        function: Without arguments, returns the values of `variables(model)`.
        model: A compiled model, whose optimizer is built.
        given: By name, variables whose values are known only where the program runs.
        epochs: How many times the program is to be run.
    """
    compiled = tf.function(function, jit_compile=True, autograph=False)
    captured = compiled.get_concrete_function().captured_inputs
    program = hlo_pb2.HloModuleProto.FromString(compiled.experimental_get_compiler_ir()(stage="hlo_serialized"))
    name_of = {id(variable.value.handle): number for number, variable in enumerate(variables(model))}
    name_of |= {id(variable.handle): name for name, variable in given.items()}
    inputs = [name_of[id(each)] if id(each) in name_of else _write_array(path.parent.parent, each) for each in captured]
    for name in given:
        _check_is_read(program, inputs.index(name), name)
    _skip_copies(program)
    path.with_suffix(".hlo").write_bytes(zlib.compress(program.SerializeToString()))
    content = {
        "inputs": inputs,  # Numbers of variables, and names of arrays.
        "values": [variable.numpy() for variable in variables(model)],
        "weights": len(model.variables),
        "measured": len(model.metrics_variables),
        "epochs": epochs,
    }
    path.with_suffix(".pkl").write_bytes(zlib.compress(pickle.dumps(content)))


def _write_array(folder, tensor):
    array = tensor.numpy()
    name = hashlib.sha256(array.tobytes()).hexdigest()[:16] + ".npz"
    if not (folder / name).exists():
        np.savez_compressed(folder / name, array)
    return name


def _check_is_read(program, number, name):
    """TensorFlow makes constants of what operations need as such: of the seed, if an image is sliced where it says."""
    entry = next(each for each in program.computations if each.id == program.entry_computation_id)
    wanted = next(each for each in entry.instructions if each.opcode == "parameter" and each.parameter_number == number)
    if not any(wanted.id in each.operand_ids for each in entry.instructions):
        raise RuntimeError(f"{name} is a constant of the program: an operation needs a constant that depends on it.")


def _skip_copies(program):
    """Lets a program return values themselves where it returns copies of them, which some versions of JAX do not know."""
    for computation in program.computations:
        copied = {each.id: each.operand_ids[0] for each in computation.instructions if each.opcode == "copy"}
        for at in reversed(range(len(computation.instructions))):
            each = computation.instructions[at]
            if each.id in copied:
                del computation.instructions[at]
            else:
                each.operand_ids[:] = [copied.get(operand, operand) for operand in each.operand_ids]
