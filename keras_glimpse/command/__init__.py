"""The program `keras-glimpse`: train on a folder of images, look at images, export a model."""

import argparse
from collections.abc import Sequence

from keras_glimpse.command import export, look, train
from keras_glimpse.command.options import PROGRAM, complain
from keras_glimpse.version import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs `keras-glimpse`, as a shell does.

    Args:
        arguments: Optional sequence of strings, the arguments. Defaults to `None`, those of this process.

    Returns:
        Integer, the exit code: 0 if all went well; 1 if it was done, but some files could not be read; 2 if it could not be
        done; 130 if it was interrupted.

    Raises:
        SystemExit: With code 2, if the arguments are wrong; with code 0, after `--help`.

    Example:
    >>> main(["look", "no-such-model.keras", "image.png"])
    2
    """
    args = _parser().parse_args(arguments)
    try:
        return args.run(args)
    except KeyboardInterrupt:
        complain(f"interrupted: {args.interrupted}")
        return 130
    except (ValueError, TypeError, OSError, ImportError) as error:
        if args.debug:
            raise
        complain(f"error: {error}")
        return 2


def _parser():
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Images of any size, classified by a few glimpses of them.")
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (look, train, export):
        module.add_to(commands)
    return parser
