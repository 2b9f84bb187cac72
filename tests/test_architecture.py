"""Who may import whom, who reads the configuration, and that all of it is read: from the sources alone."""

import ast
import graphlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from yacs.config import CfgNode

from core import config

ROOT = Path(__file__).parents[1]
ROOMS = ("core", "datasets", "models", "tools")
COMMANDS = ("train", "infer_val")
# All may import these; they import nothing of ours but what stands behind them here.
LEAVES = {
    "core.cli": (),
    "core.distributed": ("core.cli",),
    "core.files": ("core.cli",),
    "core.tensor_files": ("core.cli",),
    "core.values": ("core.cli", "core.files"),
    "datasets.labels": ("core.cli", "core.files", "core.values"),
}
# The procedures, with the rooms that each may open; the rest of core stays in core and below them.
PROCEDURE = {
    "core.trainer": ("core", "datasets"),
    "core.build": ("core", "datasets", "models"),
    "core.validation": ("core", "datasets", "models"),
    "core.inference": ("core", "datasets", "models"),
    "core.segment": ("core", "datasets"),
    "core.compute": ("core", "datasets"),
    "core.config": ("core", "models"),
    "core.resume": ("core", "models"),
    "core.steps": ("core", "models"),
    "core.step_log": ("core", "datasets"),
}
SERVE_INFERENCE = {"core.inference", "core.segment", "core.compute", "core.config"}
TRAINING = {*PROCEDURE, "core.optim"} - SERVE_INFERENCE
BUILDERS = {"core.config", "core.build", "datasets", "infer_val", "train"}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
FILES += [path for command in COMMANDS if (path := ROOT / f"{command}.py").exists()]
SOURCES = {name_of(path): ast.parse(path.read_text(), str(path)) for path in FILES}


def of_ours(module: str) -> bool:
    return module.split(".")[0] in (*ROOMS, *COMMANDS)


def imports(module: str, tree: ast.AST) -> Iterator[str]:
    """The project's modules that a module imports, at its top or in a function, as far as they are named."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if of_ours(alias.name))
        elif isinstance(node, ast.ImportFrom):
            package = module if module in PACKAGES else module.rpartition(".")[0]
            for _ in range(node.level - 1):
                package = package.rpartition(".")[0]
            base = ".".join(filter(None, (package, node.module))) if node.level else node.module
            for alias in node.names:
                full = f"{base}.{alias.name}"
                if of_ours(full):
                    yield full if full in SOURCES else base


PACKAGES = {name_of(path) for path in FILES if path.name == "__init__.py"}
GRAPH = {module: set(imports(module, tree)) for module, tree in SOURCES.items()}


def below(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def allowed(module: str, target: str) -> bool:
    """Whether `module` may import `target`: downwards only."""
    if target in COMMANDS:
        return False
    if below(target, "tools"):
        return below(module, "tools") and target.count(".") > 1  # a part of a tool, not another command
    if module in LEAVES:
        return target in LEAVES[module]
    if target in LEAVES:
        return True
    if module in PROCEDURE:
        return target.split(".")[0] in PROCEDURE[module]
    if below(module, "core"):
        return below(target, "core") and target not in PROCEDURE
    if below(module, "models") or below(module, "datasets"):
        return below(target, module.split(".")[0])
    return True  # the commands


def reached(module: str, graph: dict[str, set[str]]) -> set[str]:
    """Everything that importing `module` imports, packages on the way included."""
    seen, todo = set(), [module]
    while todo:
        name = todo.pop()
        if name and name not in seen:
            seen.add(name)
            todo += [*graph.get(name, ()), name.rpartition(".")[0]]
    return seen


@pytest.mark.parametrize("module", SOURCES)
def test_imports_go_downwards_only(module: str) -> None:
    assert [target for target in GRAPH[module] if not allowed(module, target)] == []


@pytest.mark.parametrize(
    "module, statement, target",
    [
        ("models.fcn", "from datasets import source", "datasets"),
        ("models.sac", "from core.optim import parameter_groups", "core.optim"),
        ("datasets", "def f():\n    import models", "models"),
        ("core.cli", "from core import distributed", "core.distributed"),
        ("core.metrics", "from core.steps import SACStep", "core.steps"),
        ("core.steps", "import datasets.target", "datasets.target"),
        ("core.trainer", "import train", "train"),
        ("tools.make_lists", "from tools import evaluate", "tools"),
        ("core.visual", "from models import build", "models"),
    ],
)
def test_the_rules_notice(module: str, statement: str, target: str) -> None:
    found = list(imports(module, ast.parse(statement)))
    assert found and all(below(name, target) and not allowed(module, name) for name in found)


def test_imports_are_resolved() -> None:
    source = "from . import fcn\nfrom .fcn import F\nfrom ..core import cli\nimport torch, core.log"
    tree = ast.parse(source)
    assert sorted(imports("models", tree)) == ["core.cli", "core.log", "models.fcn", "models.fcn"]
    assert list(imports("models.sac", ast.parse("from . import fcn"))) == ["models.fcn"]


def test_no_circle() -> None:
    list(graphlib.TopologicalSorter(GRAPH).static_order())
    with pytest.raises(graphlib.CycleError):
        list(graphlib.TopologicalSorter({"a": {"b"}, "b": {"a"}}).static_order())


def test_inference_imports_no_training() -> None:
    inference = reached("infer_val", GRAPH)
    assert "models" in inference and inference.isdisjoint(TRAINING)
    assert TRAINING <= reached("train", GRAPH)


@pytest.mark.parametrize("module", SOURCES)
def test_no_star_import(module: str) -> None:
    nodes = (node for node in ast.walk(SOURCES[module]) if isinstance(node, ast.ImportFrom))
    assert "*" not in [alias.name for node in nodes for alias in node.names]


def sections_read(tree: ast.AST) -> set[str]:
    """The sections of a configuration that are read: `cfg.SECTION`."""
    found = (node for node in ast.walk(tree) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name))
    return {node.attr for node in found if node.value.id == "cfg" and node.attr.isupper()}


def test_the_configuration_is_read_by_the_builders_alone() -> None:
    """Whatever they build takes plain values; the trainer hands the configuration on."""
    readers = {module for module, tree in SOURCES.items() if sections_read(tree) and not below(module, "tools")}
    assert readers <= BUILDERS and {"core.build", "datasets"} <= readers
    assert sections_read(ast.parse("def f(cfg):\n    return cfg.MODEL.LR")) == {"MODEL"}


def test_no_object_keeps_the_configuration() -> None:
    rooms = [module for module in SOURCES if module not in COMMANDS and not below(module, "tools")]
    kept = [f"{module}: {ast.unparse(node)}" for module in rooms for node in ast.walk(SOURCES[module])
            if isinstance(node, ast.Attribute) and node.attr == "cfg"]
    assert kept == []


MATHEMATICS = ("softmax", "log_softmax", "cross_entropy", "grid_sample", "affine_grid", "interpolate", "scatter_reduce")


def used(tree: ast.AST, names: Iterable[str]) -> set[str]:
    return {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute) and node.attr in names}


@pytest.mark.parametrize("module", [m for m in SOURCES if below(m, "models")])
def test_networks_and_mathematics_know_no_device(module: str) -> None:
    """GPU and CPU run the same lines."""
    assert used(SOURCES[module], ("is_cuda", "is_cpu", "get_device")) == set()
    assert not [node for node in ast.walk(SOURCES[module]) if isinstance(node, ast.Attribute) and node.attr == "type"
                and isinstance(node.value, ast.Attribute) and node.value.attr == "device"]


@pytest.mark.parametrize("module", [m for m in SOURCES if below(m, "core")])
def test_the_mathematics_is_in_models(module: str) -> None:
    allowed = {"core.steps": {"softmax"}, "core.inference": {"softmax", "interpolate"}}
    assert used(SOURCES[module], MATHEMATICS) <= allowed.get(module, set())


def test_no_module_is_imported_under_another_name() -> None:
    renamed = [f"{module}: {alias.name} as {alias.asname}" for module, tree in SOURCES.items()
               for node in ast.walk(tree) if isinstance(node, (ast.Import, ast.ImportFrom)) for alias in node.names
               if alias.asname and (isinstance(node, ast.ImportFrom) and of_ours(node.module or "") or
                                    of_ours(alias.name))]
    assert renamed == []


def run_on_import(body: Iterable[ast.AST]) -> Iterator[ast.AST]:
    """All nodes that run when the module is imported: not what is in functions."""
    for node in body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield node
            yield from run_on_import(ast.iter_child_nodes(node))


def configurations_made(tree: ast.Module) -> list[str]:
    calls = [node.func for node in run_on_import(tree.body) if isinstance(node, ast.Call)]
    makers = ("CfgNode", "CN", "defaults", "config.load", "config.defaults")
    return [ast.unparse(func) for func in calls if ast.unparse(func) in makers]


@pytest.mark.parametrize("module", SOURCES)
def test_no_configuration_object_at_module_level(module: str) -> None:
    assert configurations_made(SOURCES[module]) == []


def test_configuration_objects_are_noticed() -> None:
    assert configurations_made(ast.parse("cfg = config.load('a.yaml')[0]")) == ["config.load"]
    assert configurations_made(ast.parse("class A:\n    cfg = CfgNode()")) == ["CfgNode"]
    assert configurations_made(ast.parse("def f():\n    return CfgNode()")) == []
    assert not any(isinstance(value, CfgNode) for value in vars(config).values())


def elements(node: ast.AST) -> list[ast.AST]:
    return node.elts if isinstance(node, ast.Tuple) else [node]


def keys_read(tree: ast.AST, sections: Iterable[str]) -> set[str]:
    """SECTION.KEY of every attribute access `x.SECTION.KEY`, or `a.KEY` after `a = x.SECTION`."""
    sections, aliases, found = set(sections), set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            names, values = elements(node.targets[0]), elements(node.value)
            for name, value in zip(names, values, strict=False):
                if isinstance(name, ast.Name) and isinstance(value, ast.Attribute):
                    aliases.add((name.id, value.attr))
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr.isupper():
            holder = node.value
            if isinstance(holder, ast.Attribute):
                found.add((holder.attr, node.attr))
            elif isinstance(holder, ast.Name):
                found |= {(section, node.attr) for name, section in aliases if name == holder.id}
    return {f"{section}.{key}" for section, key in found if section in sections}


def test_keys_read_are_found() -> None:
    tree = ast.parse("a, b = cfg.DATA, 1\nm = self.cfg.MODEL\nprint(a.X, m.LR, cfg.TRAIN.TASK.upper, b.Y)")
    assert keys_read(tree, ["DATA", "MODEL", "TRAIN"]) == {"DATA.X", "MODEL.LR", "TRAIN.TASK"}


def test_every_configuration_key_is_read_and_every_key_read_exists() -> None:
    defaults = config.defaults()
    keys = {f"{section}.{key}" for section, values in defaults.items() for key in values}
    read = {module: keys_read(tree, defaults) for module, tree in SOURCES.items() if module != "core.config"}
    handed_on = next(node for node in SOURCES["core.config"].body if getattr(node, "name", "") == "network_options")
    read["core.config"] = keys_read(handed_on, defaults)
    assert keys - set().union(*read.values()) == set()
    assert {module: found - keys for module, found in read.items() if found - keys} == {}


def names_defined(tree: ast.Module) -> Iterator[str]:
    """Functions, classes and constants at a module's top."""
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from (target.id for target in targets if isinstance(target, ast.Name))


def names_mentioned(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value  # of a command in pyproject.toml's form, or of getattr


def dead(sources: dict[str, ast.Module]) -> list[str]:
    mentioned = {name for tree in sources.values() for name in names_mentioned(tree)}
    return [f"{module}.{name}" for module, tree in sources.items() for name in names_defined(tree)
            if name not in mentioned and not name.startswith("__")]


def test_nothing_serves_the_tests_alone() -> None:
    """Functions, classes and constants of the project that no line of it mentions are dead."""
    assert dead(SOURCES) == []
    assert dead({"a": ast.parse("C = 3\ndef f(): return C"), "b": ast.parse("import a\na.f")}) == []
    assert dead({"a": ast.parse("C = 3\ndef f(): pass"), "b": ast.parse("from a import f")}) == ["a.C"]
