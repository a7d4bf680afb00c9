"""What a `.tflite` file needs on a microcontroller, and the file as a C++ header, with that, for `micro.cc`.

pip install -e ".[micro]"                               # Linux on x86-64
python recipes/deploy/micro.py saved_models/mnist/cascade-int8.tflite --out model.h
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from arguments import in_one_line

STEP = 1024  # bytes, to which the arena is found
IRREGULAR = {"BATCH_MATMUL": "BatchMatMul", "PADV2": "PadV2"}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", type=Path, help="written by keras_glimpse.export_litert")
    parser.add_argument("--out", type=Path, help="header to write; default none")
    args = parser.parse_args()
    with in_one_line():
        content = args.file.read_bytes()
        found = needs(content)
        if args.out:
            args.out.write_text(header(content, **found))
    print(f"{', '.join(found['operations'])}\narena: {found['arena_bytes']:,} bytes on a computer of 64 bits")


def needs(content: bytes) -> dict:
    """The operations to register, of all branches, and the smallest arena that works, `operations` and `arena_bytes`.

    The arena is measured with TFLM's runtime for Python, on 64 bits and to a KiB. Pointers, which are a part of it, are half as
    large on 32 bits; kernels that are optimized for a certain microcontroller may want more.
    """
    return {"operations": operations(content), "arena_bytes": smallest_arena(content)}


def operations(content: bytes) -> list[str]:
    """Sorted, by their names in LiteRT's schema."""
    if content[4:8] != b"TFL3":
        raise ValueError("Expected the content of a .tflite file; got something else.")
    model = schema.Model.GetRootAsModel(content, 0)
    names = {code: name for name, code in vars(schema.BuiltinOperator).items() if name.isupper()}
    codes = (model.OperatorCodes(n) for n in range(model.OperatorCodesLength()))
    return sorted(names[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())] for code in codes)


def smallest_arena(content: bytes) -> int:
    """By bisection, in bytes; MemoryError if even 64 MiB are too small."""
    low, high = 0, 2**26 // STEP
    if not _works(content, high * STEP):
        raise MemoryError(f"Expected a file that runs in an arena of {high * STEP:,} bytes; it does not.")
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _works(content, middle * STEP) else (middle, high)
    return high * STEP


def _works(content, arena):
    try:
        from tflite_micro.python.tflite_micro import runtime  # Only this needs it, and there are few platforms with it.
    except ImportError as error:
        raise ImportError('The arena is measured with tflite-micro: pip install "keras-glimpse[micro]".') from error
    try:
        interpreter = runtime.Interpreter.from_bytes(content, arena_size=arena)
    except RuntimeError:
        return False
    details = interpreter.get_input_details(0)
    interpreter.set_input(np.zeros(details["shape"], details["dtype"]), 0)
    interpreter.invoke()
    return True


def header(content: bytes, operations: list[str], arena_bytes: int) -> str:
    """The file as C++: `kModel`, `kArenaBytes`, `kOperations`, how many, and `AddOperations`, which registers them."""
    lines = "\n".join(", ".join(map(str, content[n : n + 24])) + "," for n in range(0, len(content), 24))
    added = "\n".join(f"  TF_LITE_ENSURE_STATUS(resolver.Add{_in_cpp(name)}());" for name in operations)
    return f"""// Written by recipes/deploy/micro.py.
#pragma once

#include <cstddef>

#include "tensorflow/lite/micro/micro_mutable_op_resolver.h"

constexpr size_t kArenaBytes = {arena_bytes};
constexpr unsigned kOperations = {len(operations)};

inline TfLiteStatus AddOperations(tflite::MicroMutableOpResolver<kOperations>& resolver) {{
{added}
  return kTfLiteOk;
}}

alignas(16) constexpr unsigned char kModel[] = {{
{lines}
}};
"""


def _in_cpp(name):
    parts = (part if part[0].isdigit() else part.capitalize() for part in name.split("_"))
    return IRREGULAR.get(name, "".join(parts))


if __name__ == "__main__":
    main()
