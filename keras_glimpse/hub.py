"""Repositories of the Hugging Face Hub, `hf://user/name`, in the layout in which Keras saves models there."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_glimpse.version import __version__

PREFIX = "hf://"
CONFIG, WEIGHTS = "config.json", "model.weights.h5"
PARTS = ("metadata.json", CONFIG, WEIGHTS)  # Of which a saved model consists, in a folder or in a `.keras` file.
FILE = "model.keras"


def is_on_hub(path) -> bool:
    return str(path).startswith(PREFIX)


def repository_of(path: str) -> str:
    """`user/name` of `hf://user/name`."""
    repository = path.removeprefix(PREFIX)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository, re.ASCII):
        raise ValueError(f"Expected hf://user/name; got {path!r}.")
    return repository


def library():
    """`huggingface_hub`."""
    try:
        import huggingface_hub
    except ImportError as error:
        raise ImportError("The Hugging Face Hub needs huggingface_hub: pip install 'keras-glimpse[hub]'.") from error
    return huggingface_hub


def upload(path: str, card: str, save: Callable[[str], None]) -> None:
    """Creates or updates a repository, with a card and what `save` writes into a folder.

    Keras has a card of its own in what `keras.Model.save` uploads. One commit with ours leaves none of them incomplete.
    """
    repository, api = repository_of(path), _api()
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        with _clear_errors(f"{path} could not be written"):
            api.create_repo(repository, exist_ok=True)
            api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Save model using keras_glimpse.")


def download(path: str) -> Path:
    """The folder of a model that Keras saved, or its `model.keras`, in the cache of `huggingface_hub`.

    Without a connection, it is the version that was downloaded last.
    """
    repository, api = repository_of(path), _api()
    with _clear_errors(f"{path} could not be read"):
        folder = Path(api.snapshot_download(repository, allow_patterns=[*PARTS, "assets/*", FILE]))
    if all((folder / part).is_file() for part in PARTS):
        return folder
    if (folder / FILE).is_file():
        return folder / FILE
    raise ValueError(f"{path} is not a repository of keras_glimpse: it has neither {FILE} nor all of {', '.join(PARTS)}.")


def _api():
    return library().HfApi(library_name="keras-glimpse", library_version=__version__)


@contextlib.contextmanager
def _clear_errors(what: str) -> Iterator[None]:
    from huggingface_hub import constants, errors

    try:
        yield
    except errors.RepositoryNotFoundError as error:
        raise FileNotFoundError(
            f"{what}: {constants.ENDPOINT} has no such repository, or it is private and you did not log in (`hf auth login`)."
        ) from error
    except (OSError, errors.HTTPError) as error:  # The latter is the base class of what its HTTP client raises.
        raise OSError(f"{what} at {constants.ENDPOINT}: {error}") from error
