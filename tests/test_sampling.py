"""datasets/sampling.py: tables and draws equal the published ones; weights are read safely or refused."""

import io
import json
import logging
import pickle
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cli import UserError
from datasets.sampling import Weights, cumulative_tables, draw_image, load_weights, save_weights

GOLDEN = Path(__file__).parent / "golden"
PLAIN = {"a.png": {0: 0.25, 18: 1.0}, "b.png": {0: 0.75}}
CASES = ["uniform_no_weights", "gta", "prior1", "synthia_missing_ignored"]


@pytest.fixture(scope="module")
def published() -> dict:
    return json.loads((GOLDEN / "c08_sampling.json").read_text())


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "c08_sampling.npz"))


def weights_of(published: dict, without: tuple[int, ...] = ()) -> Weights:
    return {
        name: {int(c): share for c, share in row.items() if int(c) not in without}
        for name, row in published["loaded_dict"].items()
    }


@pytest.mark.parametrize("case", CASES)
def test_tables_and_draws_are_the_published_ones(published: dict, arrays: dict, case: str) -> None:
    settings_ = published["cases"][case]
    weights = weights_of(published, (9, 14, 16) if "missing" in case else ())
    tables = cumulative_tables(
        None if case == "uniform_no_weights" else weights,
        published["names_in_list_order"],
        settings_["C"],
        settings_["prior_weight"],
        settings_["IGNORE_CLASS"],
    )
    np.testing.assert_allclose(tables, arrays[f"{case}/cumulative"], rtol=0, atol=1e-12)
    items = zip(arrays[f"{case}/index"], arrays[f"{case}/u"], strict=True)
    drawn = [draw_image(tables, int(i), u) for i, u in items]
    assert drawn == arrays[f"{case}/selected"].tolist()
    ties = zip(arrays[f"{case}/edge_class"], arrays[f"{case}/edge_rand"], strict=True)
    on_edges = [draw_image(tables, int(c), u / tables[c, -1]) for c, u in ties]
    assert on_edges == arrays[f"{case}/edge_selected"].tolist()


def test_draws_of_a_small_table() -> None:
    names = ["a", "b", "c", "d"]
    weights = {"a": {0: 0.5}, "b": {0: 0.25, 1: 1.0}, "c": {0: 0.25}, "d": {}}
    tables = cumulative_tables(weights, names, 2, 0.2)
    np.testing.assert_allclose(tables, [[0.45, 0.7, 0.95, 1], [0.05, 0.9, 0.95, 1]], atol=1e-15)
    assert [draw_image(tables, 0, u) for u in (0, 0.44, 0.46, 0.96, 0.999)] == [0, 0, 1, 3, 3]
    assert [draw_image(tables, index, 0.5) for index in (0, 1, 2, 3)] == [1, 1, 1, 1]
    assert draw_image(tables, 7, 0.04) == 0 and draw_image(tables, 7, 0.06) == 1  # 7 % 2 = class 1


def test_class_in_no_image_is_uniform_and_said(published: dict, caplog: pytest.LogCaptureFixture) -> None:
    names = published["names_in_list_order"]
    with caplog.at_level(logging.WARNING, "sac"):
        tables = cumulative_tables(weights_of(published, (3,)), names, 19, 0.25)
    np.testing.assert_allclose(tables[3], np.arange(1, 51) / 50, atol=1e-12)
    assert len(caplog.records) == 1 and "[3]" in caplog.text
    caplog.clear()
    cumulative_tables(weights_of(published, (3,)), names, 19, 0.25, ignore=[3])
    assert not caplog.records


def test_weights_of_other_images_are_refused(published: dict) -> None:
    weights, names = weights_of(published), published["names_in_list_order"]
    with pytest.raises(UserError, match=f"1 images of the list have none.*{names[0]}"):
        cumulative_tables({k: v for k, v in weights.items() if k != names[0]}, names, 19, 0.25)
    with pytest.raises(UserError, match=f"2 are for other images.*{min(names[:2])}"):
        cumulative_tables(weights, names[2:], 19, 0.25)


@pytest.mark.parametrize(
    ("rule", "ending"),
    [("_leftImg8bit", ending) for ending in (".png", ".jpg", "")]
    + [("_gtFine_labelIds", ending) for ending in (".jpg", ".JPEG", ".tif", "")],
)
def test_weights_of_these_images_under_other_names_say_how_to_mend_them(rule: str, ending: str) -> None:
    """Masks that were named as their images, or weights of another kind of files."""
    names = [f"a_00000{i}_gtFine_labelIds.png" for i in range(3)]
    weights = {f"a_00000{i}{rule}{ending}": {0: 1 / 3} for i in range(3)}
    with pytest.raises(UserError) as error:
        cumulative_tables(weights, names, 2, 0.25)
    said = str(error.value)
    assert f"but call a_000000{rule}{ending} what training calls {names[0]}; " in said
    assert f"compute_image_weights.py --labels MASKS --ext '*{ending}' --out WEIGHTS --force" in said
    assert "\n" not in said


@pytest.mark.parametrize("others", [["x_leftImg8bit.png", "z_leftImg8bit.png"], ["x.jpg"], ["X.png", "y.png"], []])
def test_weights_of_really_other_images_are_not_taken_for_these(others: list[str]) -> None:
    with pytest.raises(UserError, match="not for the target list"):
        cumulative_tables(dict.fromkeys(others, {0: 1.0}), ["x_gtFine_labelIds.png", "y.png"], 2, 0.25)


def test_weights_that_cannot_be_are_refused() -> None:
    with pytest.raises(UserError, match="class 0 add up to 0.6"):
        cumulative_tables({"a": {0: 0.5}, "b": {0: 0.1}}, ["a", "b"], 2, 0.25)
    with pytest.raises(UserError, match="class 2, but the label set only 2 classes"):
        cumulative_tables({"a": {2: 1.0}}, ["a"], 2, 0.25)


@settings(max_examples=100, deadline=None)
@given(
    counts=st.lists(st.lists(st.integers(0, 10**6), min_size=3, max_size=3), min_size=1, max_size=20),
    prior=st.floats(0, 1),
    u=st.floats(0, 1, exclude_max=True),
)
def test_tables_sum_to_one_and_draws_are_images(counts: list[list[int]], prior: float, u: float) -> None:
    totals = np.maximum(np.sum(counts, axis=0), 1)
    names = [str(i) for i in range(len(counts))]
    rows = [{c: row[c] / totals[c] for c in range(3) if row[c]} for row in counts]
    weights = dict(zip(names, rows, strict=True))
    tables = cumulative_tables(weights, names, 3, prior)
    np.testing.assert_allclose(tables[:, -1], 1, atol=1e-9)
    assert (np.diff(tables, axis=1, prepend=0) >= 0).all()
    assert all(0 <= draw_image(tables, i, u) < len(names) for i in range(3))


def test_many_images() -> None:
    names = [f"{i}.png" for i in range(200_000)]
    weights = {name: {i % 3: 1.5e-5} for i, name in enumerate(names)}
    start = time.process_time()
    tables = cumulative_tables(weights, names, 3, 0.25)
    assert time.process_time() - start < 10
    assert tables.shape == (3, 200_000) and abs(tables[2, -1] - 1) < 1e-4
    start = time.process_time()
    drawn = {draw_image(tables, i, (i % 997) / 997) for i in range(3000)}
    assert time.process_time() - start < 1  # O(log M): a linear search would take minutes
    assert len(drawn) > 900


def numpy_weights() -> dict:
    return {name: {np.uint8(c): np.float64(share) for c, share in row.items()} for name, row in PLAIN.items()}


@pytest.mark.parametrize("legacy", [False, True])
def test_published_weights_are_read(tmp_path: Path, legacy: bool) -> None:
    path = tmp_path / "published.data"
    torch.save(numpy_weights(), path, _use_new_zipfile_serialization=not legacy)
    read = load_weights(path)
    assert read == PLAIN
    assert {type(c) for row in read.values() for c in row} == {int}
    assert {type(share) for row in read.values() for share in row.values()} == {float}


@pytest.mark.parametrize(("module", "other"), [(b"numpy._core.multiarray", b"numpy.core.multiarray")])
def test_the_names_of_either_numpy_are_read(tmp_path: Path, module: bytes, other: bytes) -> None:
    """What NumPy 1 wrote, NumPy 2 reads, and the other way round."""
    torch.save(numpy_weights(), tmp_path / "one.data")
    with zipfile.ZipFile(tmp_path / "one.data") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    old, new = (module, other) if any(module in part for part in parts.values()) else (other, module)
    with zipfile.ZipFile(tmp_path / "two.data", "w") as archive:
        for name, part in parts.items():
            archive.writestr(name, part.replace(old, new))
    assert (tmp_path / "two.data").read_bytes().count(new + b"\n") == 1
    assert load_weights(tmp_path / "two.data") == PLAIN


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "new" / "weights.data"
    save_weights(numpy_weights(), path)
    assert torch.load(path, weights_only=True) == PLAIN  # plain numbers: nothing has to be allowed
    assert load_weights(path) == PLAIN
    assert [p.name for p in path.parent.iterdir()] == ["weights.data"]


class Code:
    """Pickles into a call that leaves a trace."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("trace.txt"),)


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_code_in_a_weights_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.chdir(tmp_path)
    content = {"a.png": {0: Code()}}
    if how == "pickle":
        Path("bad.data").write_bytes(pickle.dumps(content))
    else:
        torch.save(content, "bad.data", _use_new_zipfile_serialization=how == "zip")
    with pytest.raises(UserError, match="bad.data"):
        load_weights("bad.data")
    assert not Path("trace.txt").exists()
    pickle.loads(pickle.dumps(Code()))
    assert Path("trace.txt").exists()  # so the file would have left it


@pytest.mark.parametrize(
    "content",
    [
        [1, 2],
        {},
        {"a.png": [1.0]},
        {1: {0: 1.0}},
        {"a.png": {0: -0.5}},
        {"a.png": {0: float("nan")}},
        {"a.png": {0: 1.5}},
        {"a.png": {"road": 1.0}},
        {"a.png": {0.5: 1.0}},
        {"a.png": {-1: 1.0}},
        {"a.png": {255: 1.0}},
        {"a.png": {10**30: 1.0}},
        {"a.png": {0: "much"}},
        {"a.png": {0: torch.zeros(3)}},
        {"a.png": {0: None}},
    ],
)
def test_what_is_no_weights_file(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "odd.data")
    with pytest.raises(UserError, match="odd.data.*compute_image_weights"):
        load_weights(tmp_path / "odd.data")


def test_missing_and_broken_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="weights file .* does not exist"):
        load_weights(tmp_path / "none.data")
    torch.save(numpy_weights(), tmp_path / "whole.data")
    whole = (tmp_path / "whole.data").read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], whole[:-10], b"PK\x03\x04" + bytes(100)):
        (tmp_path / "broken.data").write_bytes(content)
        with pytest.raises(UserError, match="broken.data"):
            load_weights(tmp_path / "broken.data")


def test_mutated_files_end_in_a_user_error_or_in_weights(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "fuzz.data", 0
    start = time.process_time()
    for legacy in (False, True):
        buffer = io.BytesIO()
        torch.save(numpy_weights(), buffer, _use_new_zipfile_serialization=not legacy)
        for _ in range(150):
            content = np.frombuffer(buffer.getvalue(), np.uint8).copy()
            places = rng.integers(0, content.size, rng.integers(1, 8))
            content[places] = rng.integers(0, 256, places.size)
            path.write_bytes(content.tobytes()[: rng.integers(1, 2 * content.size)])
            try:
                assert isinstance(load_weights(path), dict)
            except UserError:
                refused += 1
    assert refused > 100
    assert time.process_time() - start < 60
