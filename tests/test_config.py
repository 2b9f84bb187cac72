"""core/config.py: defaults, merging, what is refused and how; the published files; docs/configuration.md."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from golden_data import Golden
from hypothesis import given
from hypothesis import strategies as st
from yacs.config import CfgNode

from core import config
from core.cli import UserError
from core.config import IGNORED, KEYS
from core.run_folder import Run
from tools import list_keys

ROOT = Path(__file__).parents[1]
# The custom ones are an example to be filled in, and a label set.
FILES = [path for path in sorted(ROOT.glob("configs/*.yaml")) if not path.name.startswith("custom_")]
STORED = Golden("c13_config").json
# Keys of the published defaults that are other here, and why.
DEPARTURES = {
    "DATASET.ROOT": "data",  # one folder for all data; the published files say so too
    "MODEL.ARCH": "deeplabv2_resnet101",  # the default network of old is not one of the three
    "MODEL.LOSS": "focal_ce_conf_batch",  # what the published name computes, quirk A1
    "TRAIN.TASK": ["train_game_9K"],  # of which there may be several
}
# The baseline's files hold some of SAC's keys, which a baseline does not read.
UNREAD = {
    "deeplabv2_vgg16.yaml": ["MODEL.NET_MOMENTUM", "MODEL.RUN_CONF_UPPER"],
    "fcn_vgg16.yaml": ["MODEL.NET_MOMENTUM"],
}
PUBLISHED = [name for name in STORED["merged"] if name.endswith(".yaml")]


def flat(tree: dict) -> dict[str, object]:
    return {f"{section}.{name}": value for section, values in tree.items() if isinstance(values, dict)
            for name, value in values.items()}


def load(tmp_path: Path, text: str, *pairs: str) -> CfgNode:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return config.load(str(path), pairs)[0]


@pytest.fixture
def empty(tmp_path: Path) -> str:
    path = tmp_path / "empty.yaml"
    path.write_text("")
    return str(path)


def refusal(file: str, *pairs: str) -> str:
    with pytest.raises(UserError) as caught:
        config.load(file, pairs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_every_default_obeys_its_own_rule_and_says_what_it_means() -> None:
    for key in KEYS:
        assert key.rule.test(key.default) and key.meaning and key.rule.allowed, key.name
    assert len({key.name for key in KEYS}) == len(KEYS)
    assert not {key.name for key in KEYS} & set(IGNORED)


def test_an_empty_file_gives_the_defaults(empty: str) -> None:
    cfg, notes = config.load(empty)
    assert cfg == config.defaults() and notes == []


def test_defaults_are_new_each_time() -> None:
    config.defaults().DATASET.MEAN.append(1.0)
    assert len(config.defaults().DATASET.MEAN) == 3


def test_the_command_line_wins_and_the_last_pair_too(tmp_path: Path) -> None:
    text = "TRAIN: {BATCH_SIZE: 3, NUM_EPOCHS: 7}"
    cfg = load(tmp_path, text, "TRAIN.BATCH_SIZE", "5", "MODEL.LR", "1e-2", "TRAIN.BATCH_SIZE", "6")
    assert (cfg.TRAIN.BATCH_SIZE, cfg.TRAIN.NUM_EPOCHS, cfg.MODEL.LR) == (6, 7, 0.01)
    assert cfg.TRAIN.GROUP_SIZE == config.defaults().TRAIN.GROUP_SIZE


def test_the_result_is_frozen(empty: str) -> None:
    cfg, _ = config.load(empty)
    with pytest.raises(AttributeError):
        cfg.MODEL.LR = 1.0
    with pytest.raises(AttributeError):
        cfg.NEW = CfgNode()


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("VAL.IGNORE_CLASS", "9,14,16", [9, 14, 16]),
        ("VAL.IGNORE_CLASS", "[9, 14, 16]", [9, 14, 16]),
        ("VAL.IGNORE_CLASS", "9", [9]),
        ("VAL.IGNORE_CLASS", "[]", []),
        ("VAL.IGNORE_CLASS", "", []),
        ("VAL.LISTS", "a,b", ["a", "b"]),
        ("VAL.LISTS", "['a', \"b\"]", ["a", "b"]),
        ("VAL.LISTS", "lists/a.txt", ["lists/a.txt"]),
        ("VAL.LISTS", "['a, b', c]", ["a, b", "c"]),
        ("VAL.LISTS", "(1:30, on)", ["1:30", "on"]),
        ("TB.IM_SIZE", "(256, 512)", [256, 512]),
        ("DATASET.RND_ZOOM", "1,1", [1.0, 1.0]),
        ("DATASET.CROP_SIZE", "[64,128]", [64, 128]),
        ("MODEL.LR_TARGET", "5", 5.0),
        ("MODEL.FOCAL_P", "0", 0.0),
        ("MODEL.LR", "2.5e-4", 2.5e-4),
        ("MODEL.BASELINE", "true", True),
        ("MODEL.BASELINE", "False", False),
        ("DATASET.SAMPLE_WEIGHTS", "", ""),
        ("TRAIN.TARGET", "7", "7"),
        ("TRAIN.TARGET", "on", "on"),
        ("TRAIN.TARGET", "null", "null"),
        ("TRAIN.TASK", "7", ["7"]),
        ("TRAIN.TASK", "lists/a.txt", ["lists/a.txt"]),
        ("TRAIN.NUM_EPOCHS", " 7 ", 7),
    ],
)
def test_values_of_the_command_line(empty: str, name: str, given: str, value: object) -> None:
    cfg, _ = config.load(empty, ["MODEL.BASELINE", "False", name, given])
    section, key = name.split(".")
    assert cfg[section][key] == value and type(cfg[section][key]) is type(value)
    if isinstance(value, list):
        assert [type(x) for x in cfg[section][key]] == [type(x) for x in value]


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("MODEL: {LR_TARGET: 5}", "MODEL.LR_TARGET", 5.0),
        ("MODEL: {LR: 1e-4}", "MODEL.LR", 1e-4),  # text to YAML, which wants a point
        ("DATASET: {CROP_SIZE: [64, 96]}", "DATASET.CROP_SIZE", [64, 96]),
        ("DATASET:\n  RND_ZOOM:\n  - 1\n  - 2.5", "DATASET.RND_ZOOM", [1.0, 2.5]),
        ("VAL: {LISTS: [1, b]}", "VAL.LISTS", ["1", "b"]),
        ("MODEL: {BASELINE: TRUE}", "MODEL.BASELINE", True),
        ("MODEL: {LR_TARGET: 5.}", "MODEL.LR_TARGET", 5.0),
        ("MODEL: {LR: .5E+0}", "MODEL.LR", 0.5),
        ("DATASET:\n  MEAN: 0.4, 0.5, 0.6", "DATASET.MEAN", [0.4, 0.5, 0.6]),
        ("DATASET:\n  MEAN: (0.4, .5, 1e-1)", "DATASET.MEAN", [0.4, 0.5, 0.1]),
        ("VAL: {IGNORE_CLASS: 9}", "VAL.IGNORE_CLASS", [9]),
        ("VAL: {IGNORE_CLASS: []}", "VAL.IGNORE_CLASS", []),
        # Text is what is written, whatever YAML makes of it elsewhere.
        ("TRAIN: {TARGET: 1:30}", "TRAIN.TARGET", "1:30"),
        ("TRAIN: {TARGET: 2020-01-01}", "TRAIN.TARGET", "2020-01-01"),
        ("TRAIN: {TARGET: on}", "TRAIN.TARGET", "on"),
        ("TRAIN: {TARGET: 0x10}", "TRAIN.TARGET", "0x10"),
        ("TRAIN: {TARGET: 'null'}", "TRAIN.TARGET", "null"),
        ("TRAIN: {TASK: 1:30}", "TRAIN.TASK", ["1:30"]),
        ("TRAIN: {TASK: [on]}", "TRAIN.TASK", ["on"]),
        ("VAL: {LISTS: [no, 1_000, 'a, b', 017]}", "VAL.LISTS", ["no", "1_000", "a, b", "017"]),
        ("VAL:\n  LISTS:\n  - 1:30\n  - \"off\"", "VAL.LISTS", ["1:30", "off"]),
    ],
)
def test_values_of_a_file(tmp_path: Path, text: str, name: str, value: object) -> None:
    section, key = name.split(".")
    assert load(tmp_path, text)[section][key] == value


WRONG = [
    (("MODEL.LR", "-1"), "MODEL.LR = -1 in --set: expected a number from 0 to 1000"),
    (("MODEL.LR", "nan"), "MODEL.LR = nan in --set: expected a number"),
    (("MODEL.LR", "inf"), "MODEL.LR = inf in --set: expected a number"),
    (("MODEL.LR", "1e400"), "MODEL.LR = 1e400 in --set: expected a number from 0 to 1000"),
    (("MODEL.LR", "fast"), "MODEL.LR = fast in --set: expected a number"),
    (("TRAIN.GROUP_SIZE", "0"), "TRAIN.GROUP_SIZE = 0 in --set: expected a whole number from 1 to 10000"),
    (("TRAIN.BATCH_SIZE", "8.0"), "TRAIN.BATCH_SIZE = 8.0 in --set: expected a whole number"),
    (("DATASET.CROP_SIZE", "0,512"), "DATASET.CROP_SIZE = 0,512 in --set: expected 2 whole numbers from 8 to"),
    (("DATASET.CROP_SIZE", "512"), "expected 2 whole numbers"),
    (("DATASET.CROP_SIZE", "a,b"), "expected a list, each item a whole number"),
    (("DATASET.RND_ZOOM", "1.2,0.5"), "expected 2 numbers from 0.01 to 16, the smaller first"),
    (("MODEL.ARCH", "resnet50"), "deeplabv2_resnet101 | deeplabv2_vgg16_bn | fcn_vgg16_bn | timm"),
    (("MODEL.CONF_POOL", "max"), "MODEL.CONF_POOL = max in --set: expected avg_pool | minentropy_pool"),
    (("MODEL.LOSS", "ce"), "expected focal_ce | focal_ce_conf | focal_ce_conf_batch"),
    (("MODEL.OPT", "sgd"), "MODEL.OPT = sgd in --set: expected SGD | Adam"),
    (("MODEL.BASELINE", "1"), "MODEL.BASELINE = 1 in --set: expected True or False"),
    (("MODEL.NET_MOMENTUM", "1.5"), "expected a number from 0 to 1"),
    (("TRAIN.TARGET", " "), "TRAIN.TARGET = ' ' in --set: expected non-empty text"),
    (("TRAIN.TASK", " "), "TRAIN.TASK = ' ' in --set: expected names of lists"),
    (("VAL.IGNORE_CLASS", "255"), "VAL.IGNORE_CLASS = 255 in --set: expected class numbers"),
    (("VAL.IGNORE_CLASS", "-1"), "expected class numbers"),
    (("DATASET.MEAN", "123,116,103"), "expected 3 numbers from 0 to 1"),
    (("DATASET.STD", "0,1,1"), "expected 3 numbers from 0.0001"),
]


@pytest.mark.parametrize(("pair", "said"), WRONG)
def test_what_makes_no_sense_is_one_line(empty: str, pair: tuple[str, str], said: str) -> None:
    assert said in refusal(empty, *pair)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MODEL.FOCAL", "unknown key MODEL.FOCAL in --set; did you mean MODEL.FOCAL_P?"),
        ("model.lr", "did you mean MODEL.LR?"),
        ("TRAIN.BATCHSIZE", "did you mean TRAIN.BATCH_SIZE?"),
        ("LR", "unknown key LR"),
        ("", "unknown key"),
        ("XXXX.YYYY", "docs/configuration.md lists them all"),
    ],
)
def test_unknown_keys(empty: str, name: str, said: str) -> None:
    assert said in refusal(empty, name, "1")


@pytest.mark.parametrize("pairs", [("MODEL.LR",), ("MODEL.LR", "1", "TRAIN.TASK")])
def test_an_odd_set(empty: str, pairs: tuple[str, ...]) -> None:
    assert refusal(empty, *pairs) == f"--set takes KEY VALUE pairs, but {pairs[-1]!r} has no value"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("MODEL: {LR_TAGRET: 1}", "unknown key MODEL.LR_TAGRET in {file}; did you mean MODEL.LR_TARGET?"),
        ("MODEL: {LR: true}", "MODEL.LR = true in {file}: expected a number"),
        ("MODEL: {LR: }", "MODEL.LR = nothing in {file}: expected a number"),
        ("MODEL: {LR: [1]}", "expected a number"),
        ("TRAIN: {TARGET: [a]}", "TRAIN.TARGET = [a] in {file}: expected text"),
        ("TRAIN: {TARGET: ~}", "TRAIN.TARGET = nothing in {file}: expected text"),
        ("TRAIN: {TARGET: {a: [b]}}", "TRAIN.TARGET = {{a: [b]}} in {file}: expected text"),
        ("TRAIN: {TASK: [[a]]}", "TRAIN.TASK = [[a]] in {file}: expected a list, each item text"),
        (f"MODEL: {{LR: 1{'0' * 400}}}", f"MODEL.LR = 1{'0' * 99}... in {{file}}: expected a number from 0 to 1000"),
        ("TRAIN: {BATCH_SIZE: 8.0}", "TRAIN.BATCH_SIZE = 8.0 in {file}: expected a whole number"),
        ("DATASET: {CROP_SIZE: 512}", "CROP_SIZE = 512 in {file}: expected 2 whole numbers"),
        ("MODEL: {BASELINE: 1}", "expected True or False"),
        ("MODEL: [1, 2]", "{file}: expected sections with keys in them"),
        ("just text", "{file}: expected sections"),
        ("MODEL: {LR: 1, LR: 2}", "{file}:1: 'LR' is given twice"),
        ("MODEL:\n\tLR: 1", "{file}:2:"),
        ("a: &x [1]\nMODEL: *x", "{file}:2: aliases"),
        ("MODEL: !!python/object/apply:os.system ['true']", "{file}:1: tags"),
    ],
)
def test_files_that_are_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    assert said.format(file=path) in refusal(str(path))


# What YAML, or Python, would silently make another value of.
TWISTED = {
    "TRAIN.NUM_EPOCHS": ["1:30", "0o17", "017", "0x10", "0b11", "1_000", "1e3", "8.0", "yes", "true", "٣", "1 0", ""],
    "MODEL.LR": ["1:30.5", "1_0.5", ".inf", ".nan", "-.inf", "infinity", "0x1p3", "on", "1,5", "٠.٥", "1e", "e5", "."],
    "MODEL.BASELINE": ["yes", "on", "off", "n", "1", "0", "T", "~", ""],
    "DATASET.CROP_SIZE": ["[1:30, 512]", "[1_024, 512]", "[0x200, 512]", "[on, 512]", "[[512, 512]]", "[~, 512]", ""],
    "DATASET.RND_ZOOM": ["[1:30, 2]", "[0.5, .inf]", "[0_1, 2]", "{a: 1}"],
    "VAL.IGNORE_CLASS": ["1:30", "[true]", "[0o7]"],
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in TWISTED.items() for text in texts])
def test_no_value_is_silently_another(tmp_path: Path, empty: str, name: str, text: str) -> None:
    """Refused, and quoted as it was written; from a file and from the command line."""
    section, key = name.split(".")
    path = tmp_path / "some.yaml"
    path.write_text(f"{section}:\n  {key}: {text}\n", encoding="utf-8")
    shown = re.sub("~|^$", "nothing", text)
    assert f"{name} = {shown} in {path}: expected" in refusal(str(path))
    if shown == text and "{" not in text:
        assert f"{name} = {text} in --set: expected" in refusal(empty, name, text)


def test_a_file_that_comes_through_a_pipe(tmp_path: Path) -> None:
    """Its size is 0; `--cfg <(...)` is such a file."""
    end, start = os.pipe()
    os.write(start, b"MODEL: {LR: 0.125}")
    os.close(start)
    assert config.load(f"/dev/fd/{end}")[0].MODEL.LR == 0.125
    os.close(end)


def test_a_file_without_an_end_is_not_read_to_it() -> None:
    assert "longer than the 100000 bytes" in refusal("/dev/zero")


def test_a_missing_file(tmp_path: Path) -> None:
    assert "nowhere.yaml" in refusal(str(tmp_path / "nowhere.yaml"))


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        (["DATASET.SCALE_FROM", "2"], "DATASET.SCALE_FROM = 2.0 is larger than DATASET.SCALE_TO = 1.5"),
        (["MODEL.RUN_CONF_LOWER", "0.8"], "MODEL.RUN_CONF_LOWER = 0.8 is larger than MODEL.RUN_CONF_UPPER"),
        (["MODEL.ARCH", "fcn_vgg16_bn", "DATASET.CROP_SIZE", "500,512"], "needs sides divisible by 32"),
        (["MODEL.OPT_NESTEROV", "True", "MODEL.MOMENTUM", "0"], "MODEL.OPT_NESTEROV needs"),
        (["VAL.LISTS", "a,b", "VAL.SELECT", "c"], "VAL.SELECT = c is not one of VAL.LISTS"),
    ],
)
def test_values_that_do_not_go_together(empty: str, pairs: list[str], said: str) -> None:
    assert said in refusal(empty, *pairs)


def test_values_that_just_go_together(empty: str) -> None:
    pairs = "MODEL.RUN_CONF_LOWER 0.75 DATASET.SCALE_FROM 1.5 VAL.LISTS a,b VAL.SELECT b".split()
    assert config.load(empty, pairs)[0].MODEL.RUN_CONF_LOWER == 0.75


@pytest.mark.parametrize("name", IGNORED)
def test_keys_of_the_authors_files_that_mean_nothing_here(tmp_path: Path, name: str) -> None:
    section, key = name.split(".")
    path = tmp_path / "theirs.yaml"
    path.write_text(f"{section}: {{{key}: 0.5}}")
    cfg, notes = config.load(str(path), [name, "1"])
    assert notes == [f"{name} ({where}) has no meaning here and is ignored" for where in (path, "--set")]
    assert cfg == config.defaults()


def test_what_a_run_writes_is_read_again(tmp_path: Path) -> None:
    pairs = "VAL.LISTS a,7 VAL.IGNORE_CLASS 9".split()
    cfg, _ = config.load(str(ROOT / "configs/fcn_vgg16_train.yaml"), pairs)
    again = load(tmp_path, cfg.dump())
    assert again == cfg and again.VAL.LISTS == ["a", "7"]


@pytest.mark.parametrize("options", [{"exp": "../x"}, {"run": ""}, {"run": ".."}, {"dataloader": "a/b"}])
def test_names_that_lead_out_of_the_run_s_folders(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match=f"--{next(iter(options))} .*expected the name of a folder"):
        Run(**{"exp": "e", "run": "r", **options})
    assert Run("e", "r.1-x").logs == Path("logs/cityscapes/e/r.1-x")


NUMBERS = [key for key in KEYS if type((key.default or [0])[0] if isinstance(key.default, list) else key.default)
           in (int, float) and key.name != "VAL.LISTS"]


@pytest.mark.parametrize("key", NUMBERS, ids=lambda key: key.name)
@pytest.mark.parametrize("number", ["1" + "0" * 30, "-1"])
def test_slips_of_the_hand_are_refused_at_once(empty: str, key: config.Key, number: str) -> None:
    """What no machine can do, in every key that holds numbers; the message says the bounds."""
    given = ",".join([number] * max(1, len(key.default))) if isinstance(key.default, list) else number
    assert f"{key.name} = {given} in --set: expected " in refusal(empty, key.name, given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MODEL.LR", "1e308"), ("DATASET.SCALE_TO", "1e6"), ("DATASET.SCALE_FROM", "1e-300"),
        ("DATASET.GAME_SIZE", "1000000,1000000"), ("DATASET.CROP_SIZE", "512,1000000"), ("DATASET.RND_ZOOM", "1e-9,1"),
        ("DATASET.TARGET_SCALE", "1,99"), ("DATASET.STD", "1e-300,1,1"), ("MODEL.THRESHOLD_BETA", "1e-300"),
        ("TRAIN.BATCH_SIZE", "1000000"), ("TRAIN.NUM_EPOCHS", "1" + "0" * 12),
    ],
)  # fmt: skip
def test_bounds(empty: str, name: str, value: str) -> None:
    assert f"{name} = {value} in --set: expected " in refusal(empty, name, value)


def test_ignored_classes_belong_to_the_label_set(empty: str) -> None:
    cfg, _ = config.load(empty, ["VAL.IGNORE_CLASS", "9,14,16"])
    config.check_classes(cfg, 19)
    with pytest.raises(UserError, match="has the classes 0 to 4"):
        config.check_classes(cfg, 5)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_defaults_can_be_given_as_text(empty: str, key: config.Key) -> None:
    text = str(key.default)
    cfg, _ = config.load(empty, [key.name, text])
    assert cfg == config.defaults()


numbers = st.floats(1e-3, 1) | st.integers(1, 9)


short_names = st.sampled_from(["LR", "LR_TARGET", "THRESHOLD_BETA", "FOCAL_P"])


@given(changes=st.dictionaries(short_names, numbers), data=st.data())
def test_file_and_command_line_mean_the_same(tmp_path_factory, changes: dict, data: st.DataObject) -> None:
    """Whatever part of the changes stands in the file, the merged configuration is the same."""
    here = {name for name in changes if data.draw(st.booleans())}
    folder = tmp_path_factory.mktemp("merge")
    pairs = [x for name in changes if name not in here for x in (f"MODEL.{name}", repr(changes[name]))]
    merged = load(folder, yaml.safe_dump({"MODEL": {name: changes[name] for name in here}}), *pairs)
    for name, value in flat(config.defaults()).items():
        expected = changes.get(name.removeprefix("MODEL."), value) if name.startswith("MODEL.") else value
        assert flat(merged)[name] == expected


@given(words=st.lists(st.text(max_size=12), min_size=2, max_size=2), key=st.sampled_from(KEYS))
def test_any_text_is_a_value_or_a_user_error(tmp_path_factory, words: list, key: config.Key) -> None:
    path = tmp_path_factory.getbasetemp() / "none.yaml"
    path.write_text("")
    for pairs in ([key.name, words[1]], words):
        try:
            config.load(str(path), pairs)
        except UserError:
            pass


def test_published_defaults() -> None:
    ours = flat(config.defaults())
    for name, value in flat(STORED["defaults"]).items():
        if name not in IGNORED:
            assert ours[name] == DEPARTURES.get(name, value), name


@pytest.mark.parametrize("file", PUBLISHED)
def test_published_configurations(file: str) -> None:
    cfg, notes = config.load(str(ROOT / "configs" / file))
    ours, theirs = flat(cfg), flat(STORED["merged"][file])
    # The published launcher switches the baseline on by --set.
    expected = {**theirs, "MODEL.LOSS": "focal_ce_conf_batch", "MODEL.BASELINE": "_train" not in file,
                "TRAIN.TASK": [theirs["TRAIN.TASK"]]}
    for name in UNREAD.get(file, []):
        assert ours[name] != theirs[name]
        expected[name] = ours[name]
    assert {name: ours[name] for name in expected if name not in IGNORED} == {
        name: value for name, value in expected.items() if name not in IGNORED}
    assert notes == []


def test_the_published_launchers_pairs(empty: str) -> None:
    ((pairs, expected),) = [item for item in STORED["merged"].items() if item[0].startswith("--set ")]
    cfg, _ = config.load(empty, pairs.split()[1:])
    assert {name: flat(cfg)[name] for name in expected} == expected | {"TRAIN.TASK": [expected["TRAIN.TASK"]]}


def test_keys_beyond_the_published_ones_do_not_touch_the_published_files() -> None:
    published = set(flat(STORED["defaults"]))
    for file in PUBLISHED:
        cfg, _ = config.load(str(ROOT / "configs" / file))
        for name, value in flat(config.defaults()).items():
            assert name in published or flat(cfg)[name] == value


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.name)
def test_files_hold_only_what_differs_from_the_defaults(file: Path) -> None:
    given = flat(yaml.safe_load(file.read_text()))
    kept = flat(config.load(str(file))[0])
    defaults = flat(config.defaults())
    # The network stands in each published file, whatever the default is.
    same = [name for name in given if kept[name] == defaults[name] and name != "MODEL.ARCH"]
    assert given and same == []


def test_the_page_lists_the_keys_of_now() -> None:
    page = list_keys.PAGE.read_text()
    assert list_keys.replaced(page) == page, "run: python tools/list_keys.py --write"
    for key in KEYS:
        assert page.count(f"| `{key.name}` |") == 1


def test_the_page_needs_its_marks() -> None:
    with pytest.raises(UserError, match="put them back"):
        list_keys.replaced("# Configuration\n")
    page = list_keys.replaced(f"a{list_keys.BEGIN}outdated{list_keys.END}b")
    assert page.startswith("a") and page.endswith("b") and "outdated" not in page


def test_list_keys_prints() -> None:
    command = [sys.executable, ROOT / "tools/list_keys.py"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert out.strip() == list_keys.tables()
