"""tools/download.py, from a server of our own: complete and checked, or not there."""

import hashlib
import http.server
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from core.cli import UserError
from datasets.sampling import load_weights, save_weights
from tools import download

ROOT = Path(__file__).parents[1]
CONTENT = bytes(range(256)) * 9000  # 2.3 MB
NAME = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves the server's `files`; understands ranges where `ranges`; breaks off after `limit` bytes.

    Says how long they are where `told`; leads to `redirects`, if that is set.
    """

    def do_GET(self) -> None:
        if self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects)
            return self.end_headers()
        content = self.server.files.get(self.path.removeprefix("/files/"))
        if content is None:
            return self.send_error(404)
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1]) if self.server.ranges else 0
        self.server.starts.append(start)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if self.server.told:
            self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.server.limit])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.files, server.ranges, server.limit, server.starts = {NAME: CONTENT}, True, None, []
        server.redirects, server.told = "", True
        server.url = f"http://127.0.0.1:{server.server_port}/files"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def get(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    monkeypatch.delenv("SAC_URL", raising=False)
    for proxy in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(proxy, raising=False)

    def run(*args: object, insecure: bool = True) -> None:
        words = [*map(str, args), "--out", str(tmp_path / "out"), *(["--insecure"] if insecure else [])]
        monkeypatch.setattr(sys, "argv", ["download.py", *words])
        download.main()

    return run


def there(tmp_path: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (tmp_path / "out").glob("*")}


def test_download(server, get, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    get("imagenet", NAME, "--url", server.url + "/")
    assert there(tmp_path) == {NAME: CONTENT}
    expected = f"out/{NAME}: {len(CONTENT)} bytes, SHA-256 {hashlib.sha256(CONTENT).hexdigest()}"
    assert expected in capsys.readouterr().out
    get("imagenet", NAME, "--url", server.url)
    assert "already exists" in capsys.readouterr().out
    assert server.starts == [0]


def test_local_files(get, tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(CONTENT)
    get("imagenet", NAME, "--url", tmp_path.as_uri())
    assert there(tmp_path) == {NAME: CONTENT}
    with pytest.raises(UserError, match="cannot download file:.*none-0.pth"):
        get("imagenet", "none-0.pth", "--url", tmp_path.as_uri())


@pytest.mark.parametrize("ranges", [True, False])
def test_a_broken_download_resumes(server, get, tmp_path: Path, ranges: bool) -> None:
    server.limit, server.ranges = 1_000_000, ranges
    with pytest.raises(UserError, match=f"broke off at 1000000 of {len(CONTENT)}"):
        get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {NAME + ".part": CONTENT[:1_000_000]}
    server.limit = None
    get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {NAME: CONTENT}
    assert server.starts == [0, 1_000_000 if ranges else 0]


def test_a_complete_part_is_only_renamed(server, get, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / f"{NAME}.part").write_bytes(CONTENT)
    get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {NAME: CONTENT}


def test_another_file_is_refused(server, get, tmp_path: Path) -> None:
    server.files[NAME] = b"<html>Please log in</html>"
    with pytest.raises(UserError, match=f"{NAME} is not the expected file: .*SHA-256"):
        get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {}


def test_a_file_that_is_there_but_no_good(server, get, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / NAME).write_bytes(b"other")
    with pytest.raises(UserError, match="fails its check .*--force"):
        get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {NAME: b"other"}
    get("imagenet", NAME, "--url", server.url, "--force")
    assert there(tmp_path) == {NAME: CONTENT}


def test_weights_are_checked(server, get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_weights({"a.png": {0: 1.0}}, tmp_path / "w")
    server.files["cs_weights_vgg16_gta.data"] = (tmp_path / "w").read_bytes()
    torch.save([1], tmp_path / "w")
    server.files["other.data"] = (tmp_path / "w").read_bytes()
    monkeypatch.setenv("SAC_URL", server.url)
    get("weights", "cs_weights_vgg16_gta.data")
    assert load_weights(tmp_path / "out" / "cs_weights_vgg16_gta.data") == {"a.png": {0: 1.0}}
    with pytest.raises(UserError, match="other.data is not the expected file: .*no weights"):
        get("weights", "other.data")
    with pytest.raises(UserError, match="cs_weights_resnet101_gta.data: the server says 404"):
        get("weights")
    assert list(there(tmp_path)) == ["cs_weights_vgg16_gta.data"]


def test_snapshots_are_checked(server, get, tmp_path: Path) -> None:
    torch.save({"model": {"module.w": torch.ones(2)}, "opt": {}, "epoch": 1, "score": 0.5}, tmp_path / "s")
    whole = (tmp_path / "s").read_bytes()
    server.files |= {"good.pth": whole, "bad.pth": whole[:-100]}
    get("snapshots", "good.pth", "--url", server.url)
    with pytest.raises(UserError, match="bad.pth is not the expected file"):
        get("snapshots", "bad.pth", "--url", server.url)
    assert {name for name in there(tmp_path) if name.endswith("pth")} == {"good.pth"}
    assert there(tmp_path)["good.pth"] == whole


def test_snapshots_of_one_name_do_not_pass_for_each_other(server, get, tmp_path: Path, capsys) -> None:
    """Nor does the rest of one complete the beginning of another."""
    for folder in ("gta", "synthia"):
        torch.save({"model": {"module.w": torch.ones(2)}, "opt": {}, "epoch": 1, "score": 0.5}, tmp_path / folder)
        server.files[f"{folder}/same.pth"] = (tmp_path / folder).read_bytes()
    server.limit = 100
    with pytest.raises(UserError, match="broke off"):
        get("snapshots", "same.pth", "--url", f"{server.url}/gta")
    server.limit = None
    for complete in (False, True):
        with pytest.raises(UserError, match="out/same.pth comes from .*/gta/same.pth: choose another --out"):
            get("snapshots", "same.pth", "--url", f"{server.url}/synthia")
        get("snapshots", "same.pth", "--url", f"{server.url}/gta")
        assert ("already exists" in capsys.readouterr().out) == complete
    (tmp_path / "out/same.pth.url").unlink()
    get("snapshots", "same.pth", "--url", f"{server.url}/synthia")
    assert "its origin is unknown; compare its checksum" in capsys.readouterr().out


def test_http_only_if_asked_for(server, get, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="https:// or add --insecure"):
        get("imagenet", NAME, "--url", server.url, insecure=False)
    assert server.starts == [] and there(tmp_path) == {}


@pytest.mark.parametrize("address", ["http://127.0.0.1:9/x", "ftp://127.0.0.1/x", "file:///etc/passwd"])
def test_a_safe_address_does_not_lead_to_an_unsafe_one(address: str) -> None:
    """What a server on https would answer."""
    request = urllib.request.Request("https://example.org/x")
    for insecure in (False, True):
        if insecure and address.startswith("http"):
            continue
        with pytest.raises(UserError, match=f"https://example.org/x redirects to {address}"):
            download.Redirects(insecure).redirect_request(request, None, 302, "Found", {}, address)
    followed = download.Redirects(False).redirect_request(request, None, 302, "Found", {}, "https://example.org/y")
    assert followed.full_url == "https://example.org/y"


def test_a_redirect_is_looked_at(server, get, tmp_path: Path) -> None:
    server.redirects = "ftp://127.0.0.1/x"
    with pytest.raises(UserError, match="redirects to ftp://127.0.0.1/x"):
        get("imagenet", NAME, "--url", server.url)
    assert NAME not in there(tmp_path)


@pytest.mark.parametrize("told", [True, False])
def test_sizes_have_a_bound(server, get, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: bool) -> None:
    kind = download.KINDS["imagenet"]
    monkeypatch.setitem(download.KINDS, "imagenet", kind._replace(most=2_000_000))
    server.told = told
    with pytest.raises(UserError, match="the limit of 0.002 GB"):
        get("imagenet", NAME, "--url", server.url)
    assert not any(there(tmp_path).values())
    monkeypatch.setitem(download.KINDS, "imagenet", kind)
    get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {NAME: CONTENT}


def test_a_sum_that_is_known(server, get, tmp_path: Path) -> None:
    whole = hashlib.sha256(CONTENT).hexdigest()
    for wrong in (whole[:-1] + "0", whole[:8], "x" * 64):
        with pytest.raises(UserError, match="SHA-256 sum|--sha256"):
            get("imagenet", NAME, "--url", server.url, "--sha256", wrong)
    assert there(tmp_path) == {}
    get("imagenet", NAME, "--url", server.url, "--sha256", whole)
    assert there(tmp_path) == {NAME: CONTENT}


@pytest.mark.parametrize("name", ["net.pth", "net-.pth", "net-0123.pth", "net-0123abcd.pt"])
def test_names_without_a_sum_are_not_taken_on_trust(server, get, tmp_path: Path, name: str) -> None:
    server.files[name] = CONTENT
    with pytest.raises(UserError, match="digits of its SHA-256 sum"):
        get("imagenet", name, "--url", server.url)
    assert there(tmp_path) == {}


def test_two_downloads_of_one_file(server, get, tmp_path: Path) -> None:
    """The second says what is true, and harms nothing."""
    part = tmp_path / "out" / f"{NAME}.part"
    part.parent.mkdir()
    with download.unfinished(part) as file:
        file.write(CONTENT[:1000])
        file.flush()
        with pytest.raises(UserError, match=f"another process is downloading .*{NAME}; wait"):
            get("imagenet", NAME, "--url", server.url)
        assert there(tmp_path) == {part.name: CONTENT[:1000]}
    get("imagenet", NAME, "--url", server.url)
    assert there(tmp_path) == {NAME: CONTENT} and server.starts == [1000]


@pytest.mark.parametrize("suffix", ["", ".part"])
def test_links_are_not_followed(server, get, tmp_path: Path, suffix: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "theirs").write_bytes(b"theirs")
    (tmp_path / "out" / (NAME + suffix)).symlink_to(tmp_path / "theirs")
    for force in ([], ["--force"]):
        with pytest.raises(UserError, match="symbolic link|fails its check"):
            get("imagenet", NAME, "--url", server.url, *force)
    assert (tmp_path / "theirs").read_bytes() == b"theirs"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["imagenet", "--url", "http://127.0.0.1:9/x"], "cannot download .*resnet101-5d3.*offline.*out/resnet"),
        (["imagenet", "--url", "http://nowhere.invalid/x"], "cannot download .*offline"),
        (["imagenet", "--url", "ftp://x/y"], "https://"),
        (["imagenet", "--url", "x/y"], "https://"),
        (["imagenet", "../x-0.pth"], "not a file name"),
        (["snapshots"], "--url or SAC_URL"),
        (["snapshots", "--url", "http://127.0.0.1:9/x"], "which files"),
        (["weights"], "--url or SAC_URL"),
        (["models"], "models"),
    ],
)
def test_what_cannot_be_downloaded(get, tmp_path: Path, args: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        get(*args)
    assert there(tmp_path) == {}


def test_an_output_folder_that_is_a_file(server, get, tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(UserError, match="cannot write .*out"):
        get("imagenet", NAME, "--url", server.url)


def test_published_names() -> None:
    kind = download.KINDS["imagenet"]
    assert kind.url.startswith("https://") and kind.folder == "models/pretrained"
    assert kind.names == ("resnet101-5d3b4d8f.pth", "vgg16_bn-6c64b313.pth")
    names = download.KINDS["weights"].names
    assert len(names) == 6
    assert {"cs_weights_resnet101_gta.data", "cs_weights_vgg16fcn_synthia.data"} < set(names)


def test_scripts(tmp_path: Path) -> None:
    assert {path.stem for path in (ROOT / "tools").glob("download_*.sh")} == {f"download_{k}" for k in download.KINDS}
    command = ["bash", ROOT / "tools" / "download_imagenet.sh", "--url", "x", "--out", tmp_path]
    mine = {**os.environ, "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=mine, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --url x") and done.stderr.count("\n") == 1
