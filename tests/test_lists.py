"""datasets/lists.py: what a line means, what is refused and where, names of masks, a million lines."""

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.cli import UserError
from datasets import lists
from datasets.lists import Sample


def written(folder: Path, content: str | bytes) -> str:
    path = folder / "some.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def test_lines(tmp_path: Path) -> None:
    content = "\ufeff/a/x.png\tb/x.png  \r\n\r\n# a comment\r\n   # another\r\n"
    content += "c/y.png\r\n d/\u00e9\u00a0z.png e/z.png"
    assert lists.read(written(tmp_path, content), "nowhere") == [
        Sample("a/x.png", "b/x.png"),
        Sample("c/y.png", None),
        Sample("d/\u00e9\u00a0z.png", "e/z.png"),
    ]


def test_where_a_list_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "mine").write_text("third.png")
    assert lists.read("mine", "root")[0].image == "third.png"
    (tmp_path / "data" / "mine.txt").write_text("second.png")
    assert lists.read("mine", "root")[0].image == "second.png"
    (tmp_path / "root" / "mine.txt").write_text("first.png")
    assert lists.read("mine", "root")[0].image == "first.png"
    assert lists.exists("mine", "root") and not lists.exists("other", "root")
    with pytest.raises(UserError, match=r"root/other\.txt, data/other\.txt, other;"):
        lists.find("other", "root")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a.png b.png\na.png b.png c.png\n", r"some\.txt:2: expected"),
        ("a.png\n../b.png\n", r"some\.txt:2: .*leaves"),
        ("a.png x/../../b.png\n", r"some\.txt:1: .*leaves"),
        ("#\n\n/../b.png\n", r"some\.txt:3: .*leaves"),
        ("a.png\n\n/ b.png\n", r"some\.txt:3: .*slash"),
        (b"a.png\nb\xff.png\n", r"some\.txt:2: not UTF-8"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", r"some\.txt:1: not UTF-8"),
        (b"a.png\x00\n", r"some\.txt:1: a zero byte"),
        ("x" * 20_000, r"some\.txt:1: expected"),
        ("", "lists nothing"),
        ("# only\n\n \r\n", "lists nothing"),
    ],
)
def test_refused(tmp_path: Path, content: str | bytes, said: str) -> None:
    with pytest.raises(UserError, match=said):
        lists.read(written(tmp_path, content), "nowhere")


def test_two_dots_within_a_name_are_a_name(tmp_path: Path) -> None:
    assert lists.read(written(tmp_path, "a..b/c...png\n"), "nowhere")[0].image == "a..b/c...png"


def test_labels_where_they_are_needed(tmp_path: Path) -> None:
    name = written(tmp_path, "a.png b.png\nc.png\n")
    assert lists.read(name, "nowhere")[1].label is None
    with pytest.raises(UserError, match=r"some\.txt:2: no label"):
        lists.read(name, "nowhere", labels=True)


@pytest.mark.parametrize("image", ["a b.png", "/a.png", "#a.png", "", "../a.png", "a\n.png"])
def test_names_that_a_list_cannot_hold(tmp_path: Path, image: str) -> None:
    with pytest.raises(UserError):
        lists.write(tmp_path / "new.txt", [Sample(image, None)])
    assert not (tmp_path / "new.txt").exists()


characters = st.characters(codec="utf-8", exclude_characters="\0 \t\n\r\x0b\x0c")
names = st.text(characters, min_size=1, max_size=20).filter(
    lambda name: name[0] not in "/#\ufeff" and ".." not in name.split("/")
)
Pairs = list[tuple[str, str | None]]


@settings(max_examples=100, deadline=None)
@given(samples=st.lists(st.tuples(names, st.none() | names), min_size=1, max_size=5))
def test_lists_round_trip(tmp_path_factory: pytest.TempPathFactory, samples: Pairs) -> None:
    path = tmp_path_factory.mktemp("lists") / "new.txt"
    expected = [Sample(*sample) for sample in samples]
    lists.write(path, expected)
    assert lists.read(str(path), "nowhere") == expected


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_list_or_an_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    name = written(tmp_path_factory.mktemp("lists"), content)
    try:
        samples = lists.read(name, "nowhere")
    except UserError as error:
        assert "some.txt" in str(error)
    else:
        assert samples and all(sample.image for sample in samples)


@pytest.mark.parametrize(
    ("image", "mask"),
    [
        ("leftImg8bit/val/a/a_000001_000019_leftImg8bit.png", "a_000001_000019_gtFine_labelIds.png"),
        ("photos/b.c.jpg", "b.c.png"),
        ("d", "d.png"),
        ("x.y/e", "e.png"),
    ],
)
def test_mask_names(image: str, mask: str) -> None:
    assert lists.mask_name(image) == mask
    assert lists.mask_names([Sample(image, None)]) == [mask]


def test_mask_names_as_the_images_are(tmp_path: Path) -> None:
    assert lists.mask_name("a/x_leftImg8bit.jpg", renamed=False) == "x_leftImg8bit.png"


@pytest.mark.parametrize("other", ["a/x.jpg", "a/x.png", "./a/x.png", "a//x.png", "a/./x.png"])
def test_masks_of_one_name_are_an_error(other: str) -> None:
    with pytest.raises(UserError, match=r"a/x\.png.*mask x\.png"):
        lists.mask_names([Sample("a/x.png", None), Sample(other, None)])


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        (["a/x.png", "b/x.png", "b/y.png"], ["a_x.png", "b_x.png", "b_y.png"]),
        (["v/1/f_leftImg8bit.jpg", "v/2/f_leftImg8bit.jpg"], ["1_f_gtFine_labelIds.png", "2_f_gtFine_labelIds.png"]),
        (["a/c/x.png", "b/c/x.png"], ["a_c_x.png", "b_c_x.png"]),
        (["x.png", "a/x.png"], ["x.png", "a_x.png"]),
        (["a/X.png", "b/x.png"], ["a_X.png", "b_x.png"]),
        (["a/x.png", "b/x.png", "b/a_x.png"], ["a_x.png", "b_x.png", "b_a_x.png"]),
    ],
)
def test_folders_tell_images_of_one_name_apart(images: list[str], masks: list[str]) -> None:
    samples = [Sample(image, None) for image in images]
    assert lists.mask_names(samples) == masks
    with pytest.raises(UserError, match="both have"):
        lists.mask_names(samples, with_folders=False)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a/Street.png", "a/street.jpg"),
        ("x_LEFTIMG8BIT.png", "x_leftimg8bit.png"),
        ("caf\u00e9.png", "cafe\u0301.png"),  # composed and decomposed
        ("CAFE\u0301.png", "caf\u00e9.png"),
        ("\u1100\u1161.png", "\uac00.png"),
        ("stra\u00dfe.png", "STRASSE.png"),
        ("\u03c3.png", "\u03c2.png"),  # the two small sigmas
        ("\u01f0.png", "J\u030c.png"),
    ],
)
def test_masks_that_some_file_systems_take_for_one_are_an_error(one: str, other: str) -> None:
    with pytest.raises(UserError, match=rf"^{one} and {other}: .*take for one; rename") as error:
        lists.mask_names([Sample("else.png", None), Sample(one, None), Sample(other, None)])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["a1.png", "\u00e4.png", "\uff41.png", "a .png", "\u0131.png", "a\u0308\u0323.png"])
def test_names_that_are_two(name: str) -> None:
    """Other letters, however alike they look: full width, without a dot, with another accent."""
    assert lists.clash(["a.png", name, "i.png"]) is None


def test_many_lines(tmp_path: Path) -> None:
    """The files that a list names are not looked for: 500 MB and some seconds are enough for a million."""
    image = "cityscapes/leftImg8bit/train/city/city_{0:06d}_000019_leftImg8bit.png"
    label = "cityscapes/gtFine2/train/city/city_{0:06d}_000019_gtFine_labelIds.png"
    name = written(tmp_path, "".join(f"{image} {label}\n".format(i) for i in range(200_000)))
    program = (
        "import resource, sys, time; from datasets.lists import read\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "before, start = peak(), time.process_time(); samples = read(sys.argv[1], '.', labels=True)\n"
        "print(len(samples), time.process_time() - start, peak() - before)"
    )
    root = Path(__file__).parents[1]
    command = [sys.executable, "-c", program, name]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    count, seconds, megabytes = map(float, done.stdout.split())
    assert count == 200_000
    assert megabytes < 100
    assert seconds < 3  # on an idle machine 0.4
