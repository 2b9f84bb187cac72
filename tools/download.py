"""Download what others have published: ImageNet weights, the authors' snapshots and their importance weights.

  imagenet    ResNet-101's and VGG-16's weights from download.pytorch.org -> models/pretrained/
  snapshots   the authors' trained networks, named on the command line    -> snapshots/
  weights     the authors' importance weights                             -> data/

A file gets its name only when it is complete and checked; a download that broke off goes on where it stopped.
The address of the authors' files is on the paper's project page: give it as --url, or as variable SAC_URL.
"""

import hashlib
import http.client
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip

from tqdm import tqdm

from core import checkpoint
from datasets import sampling

EXAMPLES = """examples:
  bash tools/download_imagenet.sh
  bash tools/download_snapshots.sh --url https://HOST/FOLDER NAME.pth
  SAC_URL=https://HOST/FOLDER bash tools/download_weights.sh
"""
ROOT = Path(__file__).resolve().parents[1]
CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte


Check = Callable[[Path, str], object]  # (file, its final name) -> UserError if it is not what it should be


class Kind(NamedTuple):
    """A group of files."""

    url: str  # of the folder; "" = has to be given
    folder: str  # where they go, below the repository
    names: tuple[str, ...]  # those taken if none is named
    check: Check


def check_hash(path: Path, name: str) -> None:
    """Torchvision's files have the first digits of their SHA-256 sum in their names."""
    expected, found = Path(name).stem.rpartition("-")[2], sha256(path)
    if not found.startswith(expected):
        raise UserError(f"{name}: the SHA-256 sum is {found[:8]}..., not {expected}...")


def sha256(path: Path) -> str:
    """SHA-256 sum of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


KINDS = {
    "imagenet": Kind(
        "https://download.pytorch.org/models",
        "models/pretrained",
        ("resnet101-5d3b4d8f.pth", "vgg16_bn-6c64b313.pth"),
        check_hash,
    ),
    "snapshots": Kind("", "snapshots", (), lambda path, name: checkpoint.load(path)),
    "weights": Kind(
        "",
        "data",
        tuple(
            f"cs_weights_{network}_{source}.data"
            for network in ("resnet101", "vgg16", "vgg16fcn")
            for source in ("gta", "synthia")
        ),
        lambda path, name: sampling.load_weights(path),
    ),
}


def fetch(url: str, target: Path, check: Check) -> None:
    """Download a file, check it, give it its name.

    Args:
        url: http, https or file.
        target: its final place; beside it, NAME.part keeps what has come so far.
        check: of the complete file, which is thrown away if it fails.

    Raises:
        UserError: not reachable, no such file there, broken off, not what it should be, the disk refuses.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        size = receive(url, part)
        have = part.stat().st_size
        if size is not None and have < size:
            raise UserError(f"{url} broke off at {have} of {size} bytes; run this again to go on")
        try:
            check(part, target.name)
        except UserError as error:
            part.unlink()
            raise UserError(f"{url} is not the file that was expected: {error}") from None
        os.replace(part, target)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server says {error.code} {error.reason}; wrong address?") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        advice = f"if this machine is offline, get it elsewhere and put it at {target}"
        raise UserError(f"cannot get {url} ({reason}); {advice}") from None
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror}") from None


def receive(url: str, part: Path) -> int | None:
    """Append to `part` what is still missing of it.

    Returns:
        the size of the whole file in bytes, where the server says it.
    """
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # nothing was missing, or too much is there: the check tells
        raise
    with response:
        if getattr(response, "status", None) != http.client.PARTIAL_CONTENT:
            have = 0  # the server, or a local file, starts from the beginning
        length = response.headers.get("Content-Length")
        size = have + int(length) if length else None
        bar = tqdm(desc=part.stem, initial=have, total=size, unit="B", unit_scale=True, disable=None)
        with bar, open(part, "ab" if have else "wb") as file:
            while chunk := response.read(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
    return size


def main() -> None:
    """Parse the arguments, download what is not there yet."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("names", nargs="*", help="file names; default: all that have published names")
    parser.add_argument("--url", help="folder that the files are in; default: PyTorch's, or SAC_URL")
    parser.add_argument("--out", type=Path, help="where they go; default: see above")
    parser.add_argument("--force", action="store_true", help="replace files that are there but no good")
    args = parser.parse_args()
    kind = KINDS[args.kind]
    url, names = args.url or kind.url or os.environ.get("SAC_URL", ""), args.names or kind.names
    if not url:
        raise UserError(f"{args.kind}: give the address as --url or SAC_URL (see the paper's project page)")
    if urllib.parse.urlsplit(url).scheme not in ("http", "https", "file"):
        raise UserError(f"--url {url}: expected an address that starts with https://, http:// or file://")
    if not names:
        raise UserError(f"{args.kind}: which files? Name them as the folder {url} does")
    for name in names:
        if Path(name).name != name:
            raise UserError(f"{name!r} is not a file name; --url says in which folder it is")
        target = (args.out or ROOT / kind.folder) / name
        if target.exists() and is_good(target, kind.check, args.force):
            print(f"{target}: there already")
            continue
        fetch(f"{url.rstrip('/')}/{urllib.parse.quote(name)}", target, kind.check)
        print(f"{target}: {target.stat().st_size} bytes, SHA-256 {sha256(target)}")


def is_good(target: Path, check: Check, force: bool) -> bool:
    """Whether a file that is there passes its check; UserError if it does not, unless it may be replaced."""
    try:
        check(target, target.name)
    except UserError as error:
        if not force:
            raise UserError(f"{target} is there but no good ({error}); --force replaces it") from None
        return False
    return True


if __name__ == "__main__":
    run(main)
