"""Download published files: ImageNet weights, the authors' snapshots and their importance weights.

  imagenet    weights of ResNet-101 and VGG-16 from download.pytorch.org  -> models/pretrained/
  snapshots   the authors' trained networks, named on the command line    -> snapshots/
  weights     the authors' importance weights                             -> data/
  encoder     timm's published weights of encoders, given by name         -> models/pretrained/

A file gets its name only when it is complete and checked; an interrupted download resumes where it stopped.
The address of the authors' files is on the paper's project page: give it as --url, or set SAC_URL.
"""

import http.client
import itertools
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple

try:
    import fcntl
except ImportError:  # Windows: two downloads of the same file are not kept apart
    fcntl = None

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from core.cli import Parser, UserError, run  # isort: skip


from core import checkpoint
from core.files import CHUNK, kind_of, read_bytes, sha256, write_bytes
from core.outputs import OutputFile
from core.progress import bar
from datasets import sampling
from tools.hub import encoders

EXAMPLES = """examples:
  bash tools/download_imagenet.sh
  bash tools/download_snapshots.sh --url https://HOST/FOLDER NAME.pth
  SAC_URL=https://HOST/FOLDER bash tools/download_weights.sh
  python tools/download.py encoder vit_base_patch14_dinov2
"""
ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 60  # seconds without a byte
SUM = re.compile("[0-9a-f]{64}")
HASH = re.compile(r"-([0-9a-f]{8,64})\.pth$")  # in torchvision's names: the first digits of the SHA-256 sum

Check = Callable[[Path, str], object]  # (file, its final name); UserError if it is not the right file


class Kind(NamedTuple):
    """A group of files."""

    url: str  # of the folder; "" = must be given
    folder: str  # destination, in the repository
    names: tuple[str, ...]  # default file names
    most: int  # largest size of a file, in bytes
    check: Check


def check_hash(path: Path, name: str) -> None:
    """Compare with the digits in the name: torchvision publishes no more of its checksums."""
    match = HASH.search(name)
    if not match:
        raise UserError(f"{name}: expected a name that ends with digits of its SHA-256 sum, as in net-0123abcd.pth")
    compare(match[1], path, name)


def compare(expected: str, path: Path, name: str) -> None:
    """UserError if a file's SHA-256 sum does not begin with these digits."""
    found = sha256(path)
    if not found.startswith(expected):
        shown = max(8, min(len(expected), 16))
        raise UserError(f"{name}: the SHA-256 sum is {found[:shown]}..., not {expected[:shown]}...")


KINDS = {
    "imagenet": Kind(
        "https://download.pytorch.org/models",
        "models/pretrained",
        ("resnet101-5d3b4d8f.pth", "vgg16_bn-6c64b313.pth"),
        1_000_000_000,
        check_hash,
    ),
    "snapshots": Kind("", "snapshots", (), 4_000_000_000, lambda path, name: checkpoint.load(path)),
    "weights": Kind(
        "",
        "data",
        tuple(
            f"cs_weights_{network}_{source}.data"
            for network in ("resnet101", "vgg16", "vgg16fcn")
            for source in ("gta", "synthia")
        ),
        1_000_000_000,
        lambda path, name: sampling.load_weights(path),
    ),
}


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from https to a protocol that anyone on the network can tamper with."""

    def __init__(self, insecure: bool) -> None:
        self.insecure = insecure

    def redirect_request(self, req: urllib.request.Request, *args: Any) -> urllib.request.Request | None:
        """Refuse insecure protocols; the last argument is the new address."""
        check_url(args[-1], f"{req.full_url} redirects to {args[-1]}", self.insecure)
        return super().redirect_request(req, *args)


def check_url(url: str, what: str, insecure: bool, local: bool = False) -> None:
    """UserError unless the address is https://, http:// if `insecure`, or file:// if `local`."""
    scheme = urllib.parse.urlsplit(url).scheme
    if scheme == "http" and not insecure:
        raise UserError(f"{what}: over http, the files can be tampered with; use https:// or add --insecure")
    if scheme not in ("https", "http", *(["file"] if local else [])):
        raise UserError(f"{what}: expected an address that starts with https:// or file://")


def fetch(url: str, target: Path, most: int, check: Check, insecure: bool) -> None:
    """Download a file, check it, and give it its name.

    Args:
        url: http, https or file.
        target: its final place; NAME.part next to it keeps a partial download.
        most: largest size in bytes.
        check: of the complete file, which is deleted if it fails.
        insecure: allow redirects to unencrypted addresses.

    Raises:
        UserError: unreachable, no such file, too large, interrupted, not the right file, the disk refuses, or another
            process is downloading it.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with unfinished(part) as file:
            size = receive(url, file, most, insecure)
            have = file.tell()
            if size is not None and have < size:
                raise UserError(f"{url} broke off at {have} of {size} bytes; run this again to resume")
            file.flush()
            try:
                check(part, target.name)
            except UserError as error:
                part.unlink()
                raise UserError(f"{url} is not the expected file: {error}") from None
            if fcntl is None:
                file.close()  # Windows cannot rename an open file
            os.replace(part, target)
    except urllib.error.HTTPError as error:
        raise UserError(f"{url}: the server says {error.code} {error.reason}; wrong address?") from None
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
        reason = getattr(error, "reason", error)
        advice = f"if this machine is offline, download it elsewhere and save it as {target}"
        raise UserError(f"cannot download {url} ({reason}); {advice}") from None
    except OSError as error:
        raise UserError(f"cannot write {part}: {error.strerror}") from None


@contextmanager
def unfinished(part: Path) -> Iterator[IO[bytes]]:
    """The partial file, open at its end, for this process alone."""
    if (there := kind_of(part)) not in ("", "a file"):
        raise UserError(f"cannot write {part}: it is {there}; remove it")
    handle = os.open(part, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0), 0o666)
    with open(handle, "r+b") as file:
        try:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            alone = os.path.exists(part) and os.path.samestat(os.fstat(handle), os.stat(part))
        except BlockingIOError:
            alone = False
        except OSError:
            alone = True  # a network file system without locks: no guarantees there
        if not alone:
            raise UserError(f"another process is downloading {part.with_suffix('')}; wait for it, then run this again")
        file.seek(0, os.SEEK_END)
        try:
            yield file
        finally:
            if not file.closed and not file.seek(0, os.SEEK_END):
                part.unlink(missing_ok=True)  # nothing was received


def receive(url: str, file: IO[bytes], most: int, insecure: bool) -> int | None:
    """Append what is still missing to `file`.

    Returns:
        the size of the whole file in bytes, if the server states it.
    """
    have = file.tell()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.build_opener(Redirects(insecure)).open(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            return None  # complete or too long: the check will tell
        raise
    with response:
        if getattr(response, "status", None) != http.client.PARTIAL_CONTENT:
            have = 0  # the server, or a local file, starts over
            file.seek(0)
            file.truncate()
        length = response.headers.get("Content-Length") or ""
        size = have + int(length) if re.fullmatch("[0-9]{1,18}", length) else None
        name = url.rpartition("/")[2]
        with bar(desc=name, initial=have, total=size, unit="B", unit_scale=True) as watched:
            while have <= most and (size or 0) <= most and (chunk := response.read(CHUNK)):
                have += file.write(chunk)
                watched.update(len(chunk))
    if have > most or (size or 0) > most:
        file.truncate(0)
        raise UserError(f"{url} is larger than the limit of {most / 1e9:g} GB for such files; is it the right one?")
    return size


def main() -> None:
    """Parse the arguments, download what is missing."""
    parser = Parser(description=__doc__, epilog=EXAMPLES)
    parser.add_argument("kind", choices=(*KINDS, "encoder"))
    parser.add_argument("names", nargs="*", help="file names, or encoders; default: all files with published names")
    parser.add_argument("--url", help="address of the files' folder; default: PyTorch's, or SAC_URL")
    parser.add_argument("--out", type=Path, help="destination folder; default: see above")
    parser.add_argument("--sha256", nargs="+", default=[], metavar="HEX", help="the files' known SHA-256 sums")
    parser.add_argument("--insecure", action="store_true", help="allow http://, which offers no protection")
    parser.add_argument("--force", action="store_true", help="replace existing files that fail their check")
    args = parser.parse_args()
    if args.kind == "encoder":
        fetch_encoders(args.names, args.out or ROOT / "models/pretrained", args.force)
        return
    kind = KINDS[args.kind]
    url, names = args.url or kind.url or os.environ.get("SAC_URL", ""), args.names or kind.names
    if not url:
        raise UserError(f"{args.kind}: give the address as --url or SAC_URL (see the paper's project page)")
    check_url(url, f"--url {url}", args.insecure, local=True)
    if not names:
        raise UserError(f"{args.kind}: which files? Give their names in the folder {url}")
    if args.sha256 and (len(args.sha256) != len(names) or not all(map(SUM.fullmatch, args.sha256))):
        raise UserError(f"--sha256: expected a sum of 64 hexadecimal digits for each of the {len(names)} files")
    for name, known in itertools.zip_longest(names, args.sha256):
        if Path(name).name != name:
            raise UserError(f"{name!r} is not a file name; give its folder as --url")
        check = partial(check_both, kind.check, known) if known else kind.check
        target = (args.out or ROOT / kind.folder) / name
        address = f"{url.rstrip('/')}/{urllib.parse.quote(name)}"
        if args.kind == "snapshots":
            keep_apart(target, address)
        if target.exists() and is_good(target, check, args.force):
            print(f"{target} already exists")
            continue
        OutputFile("--out", target, args.force)
        fetch(address, target, kind.most, check, args.insecure)
        print(f"{target}: {target.stat().st_size} bytes, SHA-256 {sha256(target)}")


def fetch_encoders(names: Sequence[str], folder: Path, force: bool) -> None:
    """Download encoders by their timm names; the hub's own variables (HF_ENDPOINT, HF_TOKEN) apply."""
    if not names:
        raise UserError("encoder: which ones? docs/encoders.md lists some")
    for name in names:
        target = encoders.download(name, folder, force)
        print(f"{target}: {target.stat().st_size} bytes, SHA-256 {sha256(target)}")
        print(f"  MODEL.ARCH timm MODEL.ENCODER {name.partition('.')[0]} MODEL.INIT_MODEL {target}")


def keep_apart(target: Path, address: str) -> None:
    """Note a snapshot's address before the download; UserError if an existing (partial) file comes from elsewhere.

    The authors' folders contain different files with the same name.
    """
    note = target.with_name(f"{target.name}.url")
    there = target.exists() or target.with_name(f"{target.name}.part").exists()
    known = read_bytes(note).decode(errors="replace").strip() if note.is_file() else ""
    if there and known and known != address:
        raise UserError(f"{target} comes from {known}: choose another --out for {address}")
    if there and not known:
        print(f"{target}: its origin is unknown; compare its checksum (docs/reproduction.md, the authors' files)")
    elif known != address:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(note, f"{address}\n".encode())


def check_both(check: Check, known: str, path: Path, name: str) -> None:
    """Check a file's known checksum, then its content."""
    compare(known, path, name)
    check(path, name)


def is_good(target: Path, check: Check, force: bool) -> bool:
    """Whether an existing file passes its check; UserError if not, unless it may be replaced."""
    try:
        check(target, target.name)
    except UserError as error:
        if not force:
            raise UserError(f"{target} exists but fails its check ({error}); --force replaces it") from None
        return False
    return True


if __name__ == "__main__":
    run(main)
