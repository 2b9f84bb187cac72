"""Fetch the file that timm has published for an encoder, and say under which licence it is."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from core.cli import UserError
from models.timm_encoder import installed

FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
RESEARCH = ("nc", "noncommercial", "amlr", "seer")  # parts of names of licences that forbid commercial use


def licence_of(name: str | None) -> str:
    """A licence in words for those who are about to use the file."""
    if name in FREE:
        return f"{name} (commercial use is allowed)"
    if not name or name == "unknown":
        return "none is named: ask the authors before you use it"
    if set(RESEARCH) & set(name.split("-")):
        return f"{name}: NOT FOR COMMERCIAL USE"
    return f"{name}: a licence of its own; read it before you use or pass on the weights"


def download(name: str, folder: Path, force: bool) -> Path:
    """Fetch an encoder's file from timm's repository on the hub (HF_ENDPOINT names another server).

    Args:
        name: of the encoder, with or without the tag of its weights.
        folder: where NAME.TAG.safetensors goes.
        force: replace a file that is there.

    Raises:
        UserError: timm has published nothing under this name; the hub cannot be reached or refuses.
    """
    entry = installed().get_pretrained_cfg(name)
    if entry is None or not entry.hf_hub_id:
        raise UserError(f"timm publishes no weights of an encoder {name!r} on the hub")
    print(f"{entry.hf_hub_id}: licence {licence_of(entry.license)}")
    target = folder / f"{entry.architecture}{f'.{entry.tag}' if entry.tag else ''}.safetensors"
    if target.exists() and not force:
        print(f"{target}: there already")
        return target
    parts = folder / f".{target.stem}"  # what a broken download has left continues there
    with told(entry.hf_hub_id, target):
        part = hub().hf_hub_download(entry.hf_hub_id, entry.hf_hub_filename or "model.safetensors", local_dir=parts,
                                     endpoint=os.environ.get("HF_ENDPOINT"))
        check(Path(part))
        os.replace(part, target)
    shutil.rmtree(parts, ignore_errors=True)
    return target


def hub() -> ModuleType:
    """The package huggingface_hub, or a UserError."""
    try:
        import huggingface_hub
    except ImportError:
        raise UserError("this needs the package huggingface_hub: pip install -r requirements-encoders.txt") from None
    return huggingface_hub


def check(path: Path) -> None:
    """Refuse what is not a file of tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except SafetensorError:
        names = []
    if not names:
        path.unlink()
        raise UserError(f"what the hub gave as {path.name} is not a file of weights")


@contextmanager
def told(repository: str, target: Path) -> Iterator[None]:
    """Turn what the hub's package raises into one line that says what to do."""
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{repository}"
    try:
        yield
    except UserError:
        raise
    except GatedRepoError:
        raise UserError(f"{repository} is gated: its owner decides who gets it, and refuses some; ask at {page}, then "
                        "`hf auth login`, or set HF_TOKEN") from None
    except Exception as error:  # the hub's package raises its own errors, its HTTP client's and the system's
        if isinstance(error, (RepositoryNotFoundError, EntryNotFoundError)) and not isinstance(
                error, LocalEntryNotFoundError):
            raise UserError(f"the hub has no file of {repository} for you; see {page}") from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot get the weights of {repository} ({reason}); run this again to continue, or put the "
                        f"file at {page} at {target}") from None
