"""The house: imports run one way, and some libraries have one door."""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# From the ground up. A module may import those of its own layer and of the layers below. A package
# stands for its modules too; a name of its own goes before that of its package.
LAYERS: tuple[tuple[str, frozenset[str]], ...] = (
    ("errors", frozenset({"bandit", "bandit.client", "bandit.errors", "bandit.progress"})),
    ("records", frozenset({"bandit.records"})),
    (
        "pure",
        frozenset(
            {
                "bandit.access",
                "bandit.config",
                "bandit.differences",
                "bandit.experiments",
                "bandit.features",
                "bandit.learning.fold",
                "bandit.learning.guard",
                "bandit.learning.one_sided",
                "bandit.logs",
                "bandit.loop",
                "bandit.ranking.filling",
                "bandit.reward",
                "bandit.slate",
                "bandit.statistics",
                "bandit.wording",
            }
        ),
    ),
    (
        "engine and store",
        frozenset(
            {
                "bandit.features.item_table",
                "bandit.learning",
                "bandit.ranking",
                "bandit.statistics.knowledge",
                "bandit.statistics.viewers",
                "bandit.store",
            }
        ),
    ),
    (
        "loops",
        frozenset(
            {
                "bandit.learning.retraining",
                "bandit.learning.trainer",
                "bandit.ranking.personalized",
                "bandit.ranking.ranker",
            }
        ),
    ),
    ("service", frozenset({"bandit.health", "bandit.service"})),
    ("web", frozenset({"bandit.web"})),
    ("replay", frozenset({"replay"})),
    (
        "processes",
        frozenset(
            {"bandit.cli", "bandit.commands", "bandit.supervisor", "bandit.warming", "bandit.worker"}
        ),
    ),
    ("server", frozenset({"server"})),
)

# Who alone may import a library; a package stands for its modules.
DOORS: dict[str, frozenset[str]] = {
    "sqlite3": frozenset({"bandit.store"}),
    "sqlite_utils": frozenset({"bandit.store"}),
    "dask": frozenset(),
    "distributed": frozenset({"replay.cluster"}),
    "vowpalwabbit": frozenset(
        {"bandit.learning.learner", "replay.policies.learning", "replay.policies.vw_model", "replay.simulate.ccb"}
    ),
}

# What a pure module cannot have: time and randomness arrive as arguments, and no other process is talked to.
IMPURE = frozenset({"asyncio", "random", "secrets", "socket", "subprocess", "time", "uuid"})


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def house_files() -> dict[str, Path]:
    """Every module of the house, by dotted name."""
    paths = [*ROOT.glob("bandit/**/*.py"), *ROOT.glob("replay/**/*.py"), *ROOT.glob("server.py")]
    return {module_name(path): path for path in sorted(paths)}


def ancestry(name: str) -> list[str]:
    """The name and the packages around it, innermost first: ``a.b.c`` gives ``a.b.c``, ``a.b``, ``a``."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(len(parts), 0, -1)]


def layer_of(name: str) -> int | None:
    """Which layer a module is in; None when the table does not place it.

    The root package ``bandit`` is placed for itself alone: else a new module would be in its layer unseen.
    """
    for candidate in ancestry(name):
        if candidate == "bandit" and name != "bandit":
            return None
        for number, (_, members) in enumerate(LAYERS):
            if candidate in members:
                return number
    return None


def imported_names(source: str, *, module: str, is_package: bool) -> set[str]:
    """Dotted names that a source imports anywhere in it, also within functions and for type checking.

    ``from a import b`` gives ``a.b``, which is a module or a name in one: :func:`resolved` tells which.
    """
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = module.split(".")
                package = package[: len(package) - node.level + is_package]
                base = ".".join([*package, *([base] if base else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
    return names


def resolved(names: set[str], modules: set[str]) -> set[str]:
    """The modules of the house that imported names are, or are in; names from elsewhere are left out."""
    candidates = (next((each for each in ancestry(name) if each in modules), None) for name in names)
    return {each for each in candidates if each is not None}


def imports_of(name: str, path: Path) -> set[str]:
    return imported_names(path.read_text("utf-8"), module=name, is_package=path.name == "__init__.py")


def upward_imports(imports: dict[str, set[str]]) -> list[str]:
    """What breaks the order, in sentences; ``imports`` gives for each module what it imports."""
    faults = []
    for name, imported in imports.items():
        for other in sorted(resolved(imported, set(imports)) - {name}):
            own, others = layer_of(name), layer_of(other)
            if own is None or others is None:
                continue  # test_every_module_is_placed says so.
            if others > own:
                faults.append(f"{name} ({LAYERS[own][0]}) imports {other} ({LAYERS[others][0]})")
            elif name.startswith("bandit") and other.startswith("replay"):
                faults.append(f"{name} imports {other}: replay imports bandit, never the reverse")
    return faults


def closed_doors(name: str, imported: set[str]) -> list[str]:
    """Libraries that a module imports past those who alone may."""
    libraries = {each.split(".")[0] for each in imported}
    around = ancestry(name)
    return sorted(each for each, owners in DOORS.items() if each in libraries and owners.isdisjoint(around))


HOUSE = house_files()
IMPORTS = {name: imports_of(name, path) for name, path in HOUSE.items()}
PURE = sorted(name for name in HOUSE if LAYERS[layer_of(name) or 0][0] == "pure")


def test_every_module_is_placed() -> None:
    unplaced = [name for name in HOUSE if layer_of(name) is None]
    assert not unplaced, (
        f"in no layer: {', '.join(unplaced)}. Add each to the layer of LAYERS in {Path(__file__).name} where "
        "it belongs: above everything it imports, below everything that may import it"
    )


def test_no_module_is_placed_twice() -> None:
    placed = [name for _, members in LAYERS for name in members]
    assert len(placed) == len(set(placed))


def test_imports_run_one_way() -> None:
    assert upward_imports(IMPORTS) == []


def test_no_import_cycles() -> None:
    graph = {name: resolved(imported, set(HOUSE)) - {name} for name, imported in IMPORTS.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"modules import each other in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("name", HOUSE)
def test_libraries_are_imported_by_their_owners_alone(name: str) -> None:
    assert closed_doors(name, IMPORTS[name]) == [], f"only these may: {DOORS}"


@pytest.mark.parametrize("name", PURE)
def test_pure_modules_take_time_and_randomness_as_arguments(name: str) -> None:
    impure = IMPURE & {each.split(".")[0] for each in IMPORTS[name]}
    assert not impure, f"{name} is pure: hand in what it takes from {', '.join(sorted(impure))}"


# The checks themselves: each must be able to fail.


def test_an_upward_import_is_seen() -> None:
    imports = {
        "bandit.slate.drawing": {"bandit.store.log.append", "math"},
        "bandit.store": set(),
        "bandit.store.log": {"bandit.slate.drawing.draw_slate"},
    }
    assert upward_imports(imports) == ["bandit.slate.drawing (pure) imports bandit.store.log (engine and store)"]


def test_bandit_importing_replay_is_seen_from_any_layer() -> None:
    imports = {"bandit.web": {"replay.rebuild"}, "bandit.learning.learner": {"replay"}}
    imports |= {"replay.rebuild": set(), "replay": set()}
    assert len(upward_imports(imports)) == 2


def test_a_closed_door_is_seen() -> None:
    assert closed_doors("bandit.learning.trainer", {"vowpalwabbit.pyvw", "sqlite3"}) == ["sqlite3", "vowpalwabbit"]
    assert closed_doors("bandit.store.log", {"sqlite3.connect", "sqlite_utils"}) == []
    assert closed_doors("bandit.learning.learner", {"vowpalwabbit.pyvw"}) == []
    assert closed_doors("replay.rebuild", {"sqlite3"}) == ["sqlite3"]


@pytest.mark.parametrize(
    ("source", "module", "is_package", "expected"),
    [
        ("import a.b as c", "bandit.x", False, {"a.b"}),
        ("from a import b, c", "bandit.x", False, {"a.b", "a.c"}),
        ("from . import b", "bandit.web.app", False, {"bandit.web.b"}),
        ("from .log import append", "bandit.store", True, {"bandit.store.log.append"}),
        ("from ..errors import E", "bandit.store.log", False, {"bandit.errors.E"}),
        ("def f():\n    import a", "bandit.x", False, {"a"}),
    ],
)
def test_imports_are_read_in_every_form(source: str, module: str, is_package: bool, expected: set[str]) -> None:
    assert imported_names(source, module=module, is_package=is_package) == expected


def test_a_new_module_has_no_layer_until_it_is_given_one() -> None:
    assert layer_of("bandit.novelty") is None
    assert layer_of("bandit.store.anything") == layer_of("bandit.store")
