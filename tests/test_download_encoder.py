"""tools/download.py encoder, from a hub of our own."""

import hashlib
import http.server
import re
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from core.cli import UserError
from models import build
from tools import download
from tools.hub import encoders

timm = pytest.importorskip("timm", reason="timm is not installed (requirements-encoders.txt)")
pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed (requirements-encoders.txt)")
safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is missing (requirements-encoders.txt)")

REPOSITORY = "timm/test_vit.r160_in1k"
FILE = f"/{REPOSITORY}/resolve/main/model.safetensors"
NAME = "test_vit.r160_in1k.safetensors"


class Handler(http.server.BaseHTTPRequestHandler):
    """Gives the server's `content` as the hub does, or its `refusal` (status, code); breaks off after `limit` bytes."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        content = self.server.content
        if self.path != FILE or self.server.refusal:
            status, code = self.server.refusal or (404, "RepoNotFound")
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.server.starts += [start] if with_body else []
        self.send_response(206 if start else 200)
        self.send_header("X-Repo-Commit", "c" * 40)
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if with_body:
            self.wfile.write(content[start:][: self.server.limit])
            self.close_connection = True

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return {name: torch.rand_like(x) for name, x in timm.create_model("test_vit").state_dict().items()}


@pytest.fixture
def server(weights: dict[str, torch.Tensor]) -> Iterator[http.server.HTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.content, server.refusal, server.limit, server.starts = safetensors.save(weights), None, None, []
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def get(server: http.server.HTTPServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def run(*args: str) -> None:
        monkeypatch.setattr(sys, "argv", ["download.py", "encoder", *args, "--out", str(tmp_path / "out")])
        download.main()

    return run


def there(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "out").glob("*"))


def test_a_file_and_its_licence(
    server: http.server.HTTPServer, get: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture,
    weights: dict[str, torch.Tensor],
) -> None:
    get("test_vit")
    assert there(tmp_path) == [NAME]
    said, path = capsys.readouterr().out, tmp_path / "out" / NAME
    assert f"{REPOSITORY}: licence apache-2.0 (commercial use is allowed)" in said
    assert f"{len(server.content)} bytes, SHA-256 {hashlib.sha256(server.content).hexdigest()}" in said
    pairs = re.search(r"MODEL.ARCH (\S+) MODEL.ENCODER (\S+) MODEL.INIT_MODEL (\S+)", said).groups()
    network = build(pairs[0], 3, pairs[2], encoder=pairs[1])
    assert torch.equal(network.imagenet_tensors()["pos_embed"], weights["pos_embed"]) and pairs[2] == str(path)
    get("test_vit.r160_in1k")
    assert "already exists" in capsys.readouterr().out and server.starts == [0]
    get("test_vit", "--force")
    assert server.starts == [0, 0]


def test_a_broken_download_leaves_nothing_half_done(
    server: http.server.HTTPServer, get: Callable[..., None], tmp_path: Path
) -> None:
    server.limit = 1000
    with pytest.raises(UserError, match=f"cannot download the weights of {REPOSITORY} .*run this again"):
        get("test_vit")
    assert NAME not in there(tmp_path)
    server.limit = None
    get("test_vit")
    assert there(tmp_path) == [NAME] and (tmp_path / "out" / NAME).read_bytes() == server.content


@pytest.mark.parametrize("refusal, said", [
    ((403, "GatedRepo"), f"{REPOSITORY} is gated: its owner decides.*https://huggingface.co/{REPOSITORY}.*HF_TOKEN"),
    ((401, "GatedRepo"), "is gated"),
    ((404, "RepoNotFound"), f"the hub has no file of {REPOSITORY} that you can access"),
    ((404, "EntryNotFound"), f"the hub has no file of {REPOSITORY} that you can access"),
])
def test_what_the_hub_refuses_is_one_line(
    server: http.server.HTTPServer, get: Callable[..., None], tmp_path: Path, refusal: tuple[int, str], said: str
) -> None:
    server.refusal = refusal
    with pytest.raises(UserError, match=said) as caught:
        get("test_vit")
    assert "\n" not in str(caught.value) and NAME not in there(tmp_path)


def test_another_file_is_refused(server: http.server.HTTPServer, get: Callable[..., None], tmp_path: Path) -> None:
    server.content = b"<html>please log in</html>"
    with pytest.raises(UserError, match="not a weights file"):
        get("test_vit")
    assert NAME not in there(tmp_path)


def test_names_without_a_file(get: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no weights for an encoder 'resnet5'"):
        get("resnet5")
    with pytest.raises(UserError, match="which ones"):
        get()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="huggingface_hub: pip install -r requirements-encoders.txt"):
        get("test_vit")


def test_every_licence_in_timm_is_judged() -> None:
    """What is called free for commerce is so by name; whatever else timm names is told in stronger words."""
    named = {timm.get_pretrained_cfg(name).license for name in timm.list_models(pretrained=True)}
    free = {name for name in named if "allowed" in encoders.licence_of(name)}
    assert free <= {"apache-2.0", "mit", "bsd-3-clause", "cc-by-4.0"}
    research = {name for name in named if "NOT FOR COMMERCIAL USE" in encoders.licence_of(name)}
    assert {"cc-by-nc-4.0", "fair-noncommercial-research-license", "apple-amlr"} <= research
    assert "custom licence" in encoders.licence_of("dinov3-license") and "ask the authors" in encoders.licence_of(None)
