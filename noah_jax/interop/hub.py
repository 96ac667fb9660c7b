"""Exports on the Hugging Face hub, through huggingface_hub and its cache."""

import contextlib
import json
import pathlib
import re
from collections.abc import Iterator

from noah_jax.errors import UserError, printable
from noah_jax.interop import card, export
from noah_jax.interop.subnet import Subnet, read

_FETCHED = ("subnet.json", "model.safetensors", "model.safetensors.sha256")  # what `read` needs
_LOGIN = "log in by `hf auth login`, or put a token into the environment variable HF_TOKEN"
_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"


def from_pretrained(
    name: str | pathlib.Path, revision: str | None = None, weights: str = ""
) -> Subnet:
    """Reads an exported subnet, from a folder or from the Hugging Face hub.

    Args:
      name, revision: see `folder_of`.
      weights: see `subnet.read`.

    Raises:
      UserError: see `folder_of` and `subnet.read`.
    """
    return read(folder_of(name, revision), weights)


def folder_of(name: str | pathlib.Path, revision: str | None = None) -> pathlib.Path:
    """Finds the folder of an export: that folder itself, or the cached copy of one on the hub.

    Without network, what was fetched before is used.

    Args:
      name: a folder, or `OWNER/NAME` on the hub.
      revision: a branch, a tag or a commit on the hub; None = `main`.

    Raises:
      UserError: there is no such folder or repository, the repository holds no export, or it
        cannot be fetched.
    """
    if pathlib.Path(name).is_dir():
        return pathlib.Path(name)
    if not re.fullmatch(_NAME, str(name)):
        raise UserError(f"there is no folder {name}: expected one, or OWNER/NAME on the hub")
    import huggingface_hub

    what = f"there is no folder {name} here, and {name} cannot be fetched from the hub"
    with _explained(what, revision):
        found = huggingface_hub.snapshot_download(
            str(name), revision=revision, allow_patterns=[*_FETCHED]
        )
    if not (folder := pathlib.Path(found)).joinpath("subnet.json").is_file():
        raise UserError(f"{name} on the hub is no export of noah_jax: it has no subnet.json")
    return folder


def push_to_hub(
    folder: str | pathlib.Path,
    name: str,
    *,
    private: bool | None = None,
    token: str | None = None,
    message: str = "Export of noah_jax",
    weights: str = "",
) -> str:
    """Uploads an export to the Hugging Face hub, in one commit.

    A repository that is not there is made. What an older export left there is deleted; all other
    files stay. A model card of your own there is replaced only by one of your own here.

    Args:
      folder: an export; or the workdir of a finished run, which is exported first.
      name: `OWNER/NAME`.
      private: whether a new repository is private; None = as the owner has set.
      token: None = that of the login.
      message: of the commit.
      weights: where the backbone's file is now, if it has moved since the run.

    Returns:
      The address of the commit.

    Raises:
      UserError: there is no export, no login, no right to write there, or no network.
    """
    import huggingface_hub

    if not re.fullmatch(_NAME, name):
        raise UserError(f"{name}: expected OWNER/NAME, as on the hub")
    if not (token or huggingface_hub.get_token()):
        raise UserError(f"an upload to {name} needs a login: {_LOGIN}")
    folder = pathlib.Path(folder)
    if (folder / "result.json").is_file():
        export.export(folder, folder / "export", weights)
        folder = folder / "export"
    if "model.onnx" not in (names := {*export.files(folder)}):  # as up to version 0.2
        raise UserError(
            f"{folder} is no export, or one of version 0.2: push the run's workdir, which is "
            "exported first"
        )
    if (own := folder / card.NAME).is_file():
        names.add(card.NAME)
    api = huggingface_hub.HfApi(token=token, library_name="noah-jax")
    with _explained(f"cannot push to {name}"):
        api.create_repo(name, private=private, exist_ok=True)
        there = {*api.list_repo_files(name)}
        if card.NAME in names & there and card.may_be_written(own):
            if not card.may_be_written(pathlib.Path(api.hf_hub_download(name, card.NAME))):
                names.remove(card.NAME)
        older = (there & export.NAMES) - names - {card.NAME} if "subnet.json" in there else set()
        operations = [
            *(huggingface_hub.CommitOperationDelete(path) for path in sorted(older)),
            *(_addition(folder / path, path, name) for path in sorted(names)),
        ]
        return str(api.create_commit(name, operations, commit_message=message).commit_url)


def _addition(path: pathlib.Path, path_in_repo: str, name: str):
    """A file to upload.

    The card gets the name of the repository. Facts lose the folder in which the weights were here.
    """
    from huggingface_hub import CommitOperationAdd

    if path_in_repo == card.NAME:
        text = path.read_text("utf-8").replace(card.REPOSITORY, name)
    elif path_in_repo == "subnet.json":
        facts = json.loads(path.read_bytes())
        if "backbone" in facts:
            facts["backbone"] = pathlib.PurePath(facts["backbone"]).name
        text = json.dumps(facts, indent=1)
    else:
        return CommitOperationAdd(path_in_repo, path)
    return CommitOperationAdd(path_in_repo, text.encode())


@contextlib.contextmanager
def _explained(what: str, revision: str | None = None) -> Iterator[None]:
    """Turns what huggingface_hub raises into a UserError, which begins with `what`."""
    from huggingface_hub import constants, errors

    try:
        yield
    except UserError:
        raise
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{what}: it has no revision {revision}") from error
    except errors.HfHubHTTPError as error:
        reason = {
            401: f"it does not exist, or you may not see it: check the name, or {_LOGIN}",
            403: f"your login does not allow that: {_LOGIN}",
            404: "it does not exist: check the name",
        }
        status = error.response.status_code
        problem = reason.get(status, f"{constants.ENDPOINT} answers {status}: {error}")
        raise UserError(f"{what}: {problem}") from error
    except Exception as error:  # of the libraries below it: no network, no room on the disk
        raise UserError(
            f"{what}: {constants.ENDPOINT} cannot be reached, or does not answer as "
            f"expected: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return printable((str(error).splitlines() or [type(error).__name__])[0])
