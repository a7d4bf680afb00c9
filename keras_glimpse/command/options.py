"""What the commands have in common: numbers, files and models as arguments, and messages."""

import argparse
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import keras

from keras_glimpse._validation.arguments import check_built_classifier
from keras_glimpse.export.integrity import check_file
from keras_glimpse.hub import is_on_hub
from keras_glimpse.pretrained import load_pretrained

PROGRAM = "keras-glimpse"


def say(line: str) -> None:
    """Writes a line to stdout; of names of files, bytes that it cannot show are escaped."""
    encoding = sys.stdout.encoding or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)


def complain(message: object) -> None:
    """Writes a line to stderr, which escapes what it cannot show."""
    print(f"{PROGRAM}: {' '.join(str(message).split())}", file=sys.stderr, flush=True)


def add_command(commands, name: str, run: Callable, about: str, examples: str, interrupted: str) -> argparse.ArgumentParser:
    """Adds a command: `run` maps its arguments to the exit code, `interrupted` is what to do after Ctrl-C."""
    parser = commands.add_parser(
        name,
        help=about,
        description=about,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, interrupted=interrupted)
    parser.add_argument("--debug", action="store_true", help="show where in the program an error comes from")
    return parser


# ---- Numbers ----


def _number(kind, accepts, must):
    def number(text):
        if not accepts(kind(text)):
            raise argparse.ArgumentTypeError(f"must {must}; got {text}")
        return kind(text)

    number.__name__ = kind.__name__  # In argparse's message of what is no number.
    return number


def at_least(minimum: int) -> Callable[[str], int]:
    """The `type` of an argument that is an integer, not below `minimum`."""
    return _number(int, lambda value: minimum <= value < 2**31, f"be at least {minimum}")


threshold = _number(float, lambda value: 0 < value <= 1, "lie in (0, 1]")
share = _number(float, lambda value: 0 < value < 1, "lie between 0 and 1")
SIZE = {"nargs": 2, "type": at_least(1), "metavar": ("H", "W")}


# ---- Files and models ----


def files_in(folder: Path) -> list[Path]:
    """All files in a folder and its sub-folders, sorted, without those that are hidden or in a hidden folder."""
    hidden = lambda path: any(part.startswith(".") for part in path.relative_to(folder).parts)  # noqa: E731
    return sorted(path for path in folder.rglob("*") if path.is_file() and not hidden(path))


def files_of(paths: Iterable[str]) -> list[str]:
    """Files, each once, with all files of a folder in its place."""
    found = {}
    for path in map(Path, paths):
        files = files_in(path) if path.is_dir() else [path]
        if not files:
            raise ValueError(f"There are no files in {path}.")
        found |= dict.fromkeys(map(str, files))
    return list(found)


def load(model: str) -> keras.Model:
    """The model of a file, one that is part of the package, or one from the Hub."""
    if is_on_hub(model) or not model.endswith(".keras"):
        return load_pretrained(model)
    check_file(model)
    loaded = keras.models.load_model(model, compile=False)
    check_built_classifier(PROGRAM, loaded)
    return loaded
