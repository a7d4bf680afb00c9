"""What the command lines of the recipes check alike, and how they say that something is wrong."""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path


def _number(kind, accepts, must):
    def number(text):
        if not accepts(kind(text)):
            raise argparse.ArgumentTypeError(f"must {must}; got {text}")
        return kind(text)

    number.__name__ = kind.__name__  # In argparse's message of what is no number.
    return number


def at_least(minimum: int) -> Callable[[str], int]:
    """The `type` of an argument that is an integer, not below `minimum`."""
    return _number(int, lambda value: value >= minimum, f"be at least {minimum}")


seed = _number(int, lambda value: 0 <= value < 2**32, "be at least 0 and below 2**32")  # As NumPy's.
threshold = _number(float, lambda value: 0 < value <= 1, "lie in (0, 1]")


def refuse(parser: argparse.ArgumentParser, args: argparse.Namespace, why: str, *names: str) -> None:
    """Ends the program with an error if options of these names were given, which nothing would heed: `why`."""
    for name in names:
        if getattr(args, name) != parser.get_default(name):
            parser.error(f"argument --{name.replace('_', '-')}: {why}")


@contextlib.contextmanager
def in_one_line(*errors: type[Exception]):
    """Ends the program with one line, not a traceback, where what it was given is wrong or missing, or one of `errors`."""
    try:
        yield
    except (ImportError, OSError, TypeError, ValueError, *errors) as error:
        sys.exit(f"{Path(sys.argv[0]).stem}: {error}")


def folder_to_write(path: Path, option: str = "--out") -> Path:
    """The folder, made if it is not there; OSError if nothing can be written to it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(f"{option} must be a folder that can be written to; got {path} ({error.strerror}).") from error
    return path
