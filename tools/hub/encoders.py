"""Download the weights that timm publishes for an encoder, and state their licence."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from core.cli import UserError
from models.timm_encoder import installed

FREE = ("apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0")
RESEARCH = ("nc", "noncommercial", "amlr", "seer")  # parts of licence names that forbid commercial use


def licence_of(name: str | None) -> str:
    """A licence in words, for users of the file."""
    if name in FREE:
        return f"{name} (commercial use is allowed)"
    if not name or name == "unknown":
        return "not stated: ask the authors before you use it"
    if set(RESEARCH) & set(name.split("-")):
        return f"{name}: NOT FOR COMMERCIAL USE"
    return f"{name}: a custom licence; read it before you use or redistribute the weights"


def download(name: str, folder: Path, force: bool) -> Path:
    """Download an encoder's weights from timm's repository on the hub (HF_ENDPOINT sets another server).

    Args:
        name: of the encoder, with or without a weights tag.
        folder: where NAME.TAG.safetensors goes.
        force: replace an existing file.

    Raises:
        UserError: timm publishes nothing under this name; the hub is unreachable or refuses.
    """
    entry = installed().get_pretrained_cfg(name)
    if entry is None or not entry.hf_hub_id:
        raise UserError(f"timm publishes no weights for an encoder {name!r} on the hub")
    print(f"{entry.hf_hub_id}: licence {licence_of(entry.license)}")
    target = folder / f"{entry.architecture}{f'.{entry.tag}' if entry.tag else ''}.safetensors"
    if target.exists() and not force:
        print(f"{target} already exists")
        return target
    parts = folder / f".{target.stem}"  # an interrupted download resumes there
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
    """UserError if the file holds no tensors."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            names = list(file.keys())
    except SafetensorError:
        names = []
    if not names:
        path.unlink()
        raise UserError(f"what the hub sent as {path.name} is not a weights file")


@contextmanager
def told(repository: str, target: Path) -> Iterator[None]:
    """Turn the hub package's exceptions into one line that says what to do."""
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
        raise UserError(f"{repository} is gated: its owner decides who gets access; request it at {page}, then run "
                        "`hf auth login` or set HF_TOKEN") from None
    except Exception as error:  # the hub's package raises its own errors, its HTTP client's and the system's
        if isinstance(error, (RepositoryNotFoundError, EntryNotFoundError)) and not isinstance(
                error, LocalEntryNotFoundError):
            raise UserError(f"the hub has no file of {repository} that you can access; see {page}") from None
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot download the weights of {repository} ({reason}); run this again to resume, or save "
                        f"the file from {page} as {target}") from None
