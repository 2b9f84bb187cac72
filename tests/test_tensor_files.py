"""core/tensor_files.py, the one reader: an archive is whole or refused, tensors are plain numbers, no code is run."""

import ast
import random
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core import checkpoint, tensor_files
from core.cli import UserError
from datasets import sampling
from models import build

ROOT = Path(__file__).parents[1]
VALUE = {
    "model": {"module.backbone.weight": torch.arange(12.0).reshape(3, 4), "module.backbone.bias": torch.ones(3)},
    "opt": {"state": {0: {"momentum_buffer": torch.zeros(3, 4)}}}, "epoch": 7, "score": np.float64(0.5),
}  # fmt: skip


def read(path: Path) -> Any:
    return tensor_files.read(path, "snapshot", "use another one")


def refusal(path: Path, reader: Callable[[Path], Any] = read) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # one line, and nothing beside it
        with pytest.raises(UserError) as caught:
            reader(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_has_saved_is_read_back(tmp_path: Path, zipped: bool) -> None:
    torch.save(VALUE, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert same(read(tmp_path / "x.pth"), VALUE)


def test_every_flipped_bit_that_matters_is_found(tmp_path: Path) -> None:
    """Wherever a bit is flipped: refused, or the value is the very same."""
    torch.save(VALUE, tmp_path / "x.pth")
    content, rng = (tmp_path / "x.pth").read_bytes(), random.Random(0)
    refused = 0
    for _ in range(400):
        place = rng.randrange(len(content))
        harmed = bytearray(content)
        harmed[place] ^= 1 << rng.randrange(8)
        (tmp_path / "y.pth").write_bytes(harmed)
        try:
            assert same(read(tmp_path / "y.pth"), VALUE), place
        except UserError:
            refused += 1
    assert refused > 100


KINDS = {
    "snapshot": (checkpoint.load, {"model": {"w": torch.arange(1000.0)}}),
    "weights": (sampling.load_weights, {f"{i}.png": {0: 1 / 64} for i in range(64)}),
    "ImageNet": (lambda path: build("deeplabv2_resnet18", 3, str(path)), {"conv1.weight": torch.ones(64, 3, 7, 7)}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_line_names_the_member(tmp_path: Path, kind: str) -> None:
    """A flipped bit in the numbers, which alone would go unnoticed."""
    reader, value = KINDS[kind]
    path = tmp_path / "some.pth"
    torch.save(value, path)
    with zipfile.ZipFile(path) as archive:
        member = max(archive.infolist(), key=lambda info: info.file_size)
    content = bytearray(path.read_bytes())
    content[member.header_offset + 200 + member.file_size // 2] ^= 4
    path.write_bytes(content)
    assert f"is damaged: its member {member.filename!r}" in refusal(path, reader)


def zip_of(path: Path, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"archive/{name}", content)


def test_an_archive_that_would_unpack_to_more_than_itself(tmp_path: Path) -> None:
    zip_of(tmp_path / "bomb.pth", data=bytes(50_000_000))
    assert "larger than the file" in refusal(tmp_path / "bomb.pth")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    ODD = {
        "sparse": torch.eye(3).to_sparse(),
        "sparse rows": torch.eye(3).to_sparse_csr(),
        "meta": torch.zeros(3, device="meta"),
        "quantised": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8),
        "quantised by channel": torch.quantize_per_channel(torch.ones(3, 2), torch.ones(3), torch.zeros(3), 0,
                                                           torch.qint8),
        "nested": torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "complex": torch.zeros(2, dtype=torch.complex64),
        "negated": torch.zeros(2, dtype=torch.complex64).conj().imag,
        "eight bits": torch.zeros(2).to(torch.float8_e4m3fn),
        "more than memory": torch.zeros(1).expand(10**12),
    }


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("reader", KINDS)
def test_tensors_that_are_no_plain_numbers(tmp_path: Path, kind: str, reader: str) -> None:
    path = tmp_path / "odd.pth"
    for value in ({"model": {"w": ODD[kind]}}, {"run": [{"rng": (ODD[kind],)}]}, ODD[kind], {"a.png": {0: ODD[kind]}}):
        torch.save(value, path)
        said = refusal(path, KINDS[reader][0])
        assert "holds" in said


@pytest.mark.parametrize("kind", ["sparse", "meta", "quantised", "complex"])
@pytest.mark.parametrize("place", ["model", "opt", "run"])
def test_the_line_names_the_tensor(tmp_path: Path, kind: str, place: str) -> None:
    torch.save({"model": {}, place: {"deep": [{"x": ODD[kind]}]}}, tmp_path / "odd.pth")
    assert f"'{place}.deep.0.x'" in refusal(tmp_path / "odd.pth")


def test_dense_tensors_of_all_sorts_are_read(tmp_path: Path) -> None:
    whole = torch.arange(120.0).reshape(2, 3, 4, 5)
    values = [whole, whole[1:, ::2], whole.to(memory_format=torch.channels_last), whole.bool(), whole.half(),
              whole.long()[0, 0, 0, 0], torch.nn.Parameter(whole), torch.zeros(0, 3)]  # fmt: skip
    torch.save(values, tmp_path / "x.pth")
    assert all(torch.equal(a, b) for a, b in zip(read(tmp_path / "x.pth"), values, strict=True))


def test_values_that_hold_themselves(tmp_path: Path) -> None:
    ring: list = [torch.ones(1)]
    ring += [ring, {"ring": ring}]
    torch.save(ring, tmp_path / "ring.pth")
    assert read(tmp_path / "ring.pth")[0] == 1


def test_values_that_are_nested_deeply(tmp_path: Path) -> None:
    """Deeper than Python calls functions."""
    deep = b"\x80\2" + b"]" * 100_000 + b"a" * 99_999 + b"."
    torch.save([], tmp_path / "flat.pth")
    with zipfile.ZipFile(tmp_path / "flat.pth") as flat, zipfile.ZipFile(tmp_path / "deep.pth", "w") as archive:
        for info in flat.infolist():
            archive.writestr(info, deep if info.filename.endswith("data.pkl") else flat.read(info))
    value, depth = read(tmp_path / "deep.pth"), 1
    while value:
        value, depth = value[0], depth + 1
    assert depth == 100_000


class Code:
    """Pickles into a call that leaves a trace."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_not_run(tmp_path: Path, kind: str, zipped: bool) -> None:
    torch.save({"model": Code(tmp_path / "trace")}, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert "holds code" in refusal(tmp_path / "x.pth", KINDS[kind][0])
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_no_file(tmp_path: Path, kind: str) -> None:
    assert "does not exist" in refusal(tmp_path / "nowhere.pth", KINDS[kind][0])
    assert "is not a file" in refusal(tmp_path, KINDS[kind][0])
    (tmp_path / "through").symlink_to(tmp_path / "nowhere")
    assert "does not exist" in refusal(tmp_path / "through", KINDS[kind][0])


@settings(max_examples=100, deadline=None)
@given(content=st.binary(max_size=200), head=st.sampled_from([b"", b"PK\3\4", b"\x80\2", b"\x80\2\x8a\nl\xfc"]))
def test_any_bytes_are_one_line(tmp_path_factory: pytest.TempPathFactory, content: bytes, head: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    path.write_bytes(head + content)
    try:
        read(path)
    except UserError as error:
        assert "\n" not in str(error)


def test_nobody_else_reads_tensors() -> None:
    """torch.load stands in one place of the program."""
    found = []
    for path in [*ROOT.glob("*.py"), *(p for room in ("core", "datasets", "models", "tools") for p in
                                       (ROOT / room).rglob("*.py"))]:
        calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        found += [path.relative_to(ROOT).as_posix() for call in calls
                  if call in ("torch.load", "pickle.load", "pickle.loads", "np.load", "numpy.load")]
    assert found == ["core/tensor_files.py"]
