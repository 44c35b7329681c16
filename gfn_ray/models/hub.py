"""Models of the Hugging Face hub: one download a machine, of one commit, into the hub's own cache.

The cache's locks make processes of one machine wait for the first that asks, so that each machine
downloads a file once. Only what a model needs is downloaded, and no pickle. A token is taken from
HF_TOKEN or the hub's own login.
"""

from __future__ import annotations

from pathlib import Path

from gfn_ray.errors import UserError, cut

ENVIRONMENT = ("HF_TOKEN", "HF_ENDPOINT", "HF_HUB_OFFLINE")
"""Variables of the job that its actors on other machines need to download as it does."""

_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.tiktoken", "*.jinja")
_OTHER_FORMATS = ("*/*", "consolidated*")  # the same weights once more
_LONGEST_REASON = 300  # characters of the package's error
# Names of errors, and their remedy; the last is for all others.
_CURES = (
    (("GatedRepoError",), "ask for access on the model's page, and set HF_TOKEN"),
    (("RepositoryNotFoundError",), "check the id; for a private model, set HF_TOKEN"),
    (("RevisionNotFoundError",), "check --model.revision, a branch, tag or commit of the model"),
    ((), "check the id and the network, or give a local directory"),
)


def download(name: str, revision: str | None, *, with_code: bool) -> str:
    """Returns the directory of a model's commit. with_code: whether it may bring Python files.

    Without a network, what was downloaded before does. Raises UserError.
    """
    from huggingface_hub import snapshot_download

    try:
        directory = snapshot_download(
            name,
            revision=revision,
            allow_patterns=[*_FILES, *(("*.py",) if with_code else ())],
            ignore_patterns=list(_OTHER_FORMATS),
        )
    except Exception as error:  # huggingface_hub, httpx and OS kinds
        kinds = {kind.__name__ for kind in type(error).__mro__}
        cure = next(cure for names, cure in _CURES if not names or kinds & set(names))
        at = f" at {revision}" if revision else ""
        reason = cut(" ".join(str(error).split()).rstrip("."), _LONGEST_REASON)
        raise UserError(f"--model.name: cannot download {name}{at}: {reason}; {cure}") from error
    if not any(Path(directory).glob("*.safetensors")):
        raise UserError(
            f"--model.name: {name} has no weights as safetensors, and pickled ones can run code; "
            "give another revision (--model.revision), or convert it with save_pretrained"
        )
    return directory


def commit_of(model: str) -> str | None:
    """The commit of a directory that `download` returned; None for any other."""
    path = Path(model)
    downloaded = path.parent.name == "snapshots" and path.parent.parent.name.startswith("models--")
    return path.name if downloaded else None


def public_name(model: str) -> str:
    """What others know a resolved model by: its hub id, or the directory as it is."""
    if commit_of(model) is None:
        return model
    return Path(model).parent.parent.name.removeprefix("models--").replace("--", "/")
