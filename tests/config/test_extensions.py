"""Installed code registers components; what is wrong with one file leaves the others working."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from depthlab.config.registry import _content_version

from .extensions import HEAD, TRIANGLE, ask, write_distribution, write_namespace

NAMES = "import json; print(json.dumps(sorted(components('schedule'))))"
EXTENSIONS = "import json; print(json.dumps(installed_extensions()))"
OURS = ["constant", "cosine", "he2015", "step"]
LINES_BEFORE = HEAD.count("\n")


def test_a_file_in_the_namespace_package_is_found_with_its_content_as_version(tmp_path: Path) -> None:
    root = write_namespace(tmp_path, triangle=TRIANGLE)
    names, extensions = ask([root], f"{NAMES}; {EXTENSIONS}").splitlines()
    assert {*OURS, "triangle"} <= set(json.loads(names))
    content = (root / "depthlab_extensions" / "triangle.py").read_bytes()
    version = f"sha256:{hashlib.sha256(content).hexdigest()[:12]}"
    assert json.loads(extensions)["depthlab_extensions.triangle"] == version


def test_every_file_of_a_folder_counts_towards_its_version_but_compiled_and_hidden_ones(tmp_path: Path) -> None:
    folder = tmp_path / "mixer"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "__init__.py").write_text("")
    versions = [_content_version(str(folder / "__init__.py"))]
    for name in ("net.py", "table.json", "__pycache__/net.pyc", ".net.py.swp"):
        (folder / name).write_text(name)
        versions.append(_content_version(str(folder / "__init__.py")))
    assert len(set(versions[:3])) == 3
    assert set(versions[3:]) == {versions[2]}


def test_a_namespace_package_may_lie_in_several_places(tmp_path: Path) -> None:
    other = TRIANGLE.replace("triangle", "square").replace("Triangle", "Square")
    roots = [write_namespace(tmp_path / "a", triangle=TRIANGLE), write_namespace(tmp_path / "b", square=other)]
    assert {*OURS, "square", "triangle"} <= set(json.loads(ask(roots, NAMES)))


def test_an_entry_point_is_found_with_its_distributions_name_and_version(tmp_path: Path) -> None:
    root = write_distribution(tmp_path, "mylab_here", "2.5.1", {"any": "mylab_here.one"}, one=TRIANGLE)
    names, extensions = ask([root], f"{NAMES}; {EXTENSIONS}").splitlines()
    assert "triangle" in json.loads(names)
    assert json.loads(extensions)["mylab_here"] == "2.5.1"


def test_a_key_of_an_extension_is_checked_completed_and_listed_like_ours(tmp_path: Path) -> None:
    root = write_namespace(tmp_path, triangle=TRIANGLE)
    code = """
from depthlab.config.hydra_options import options
from depthlab.config.schema import known_keys
print(options()["schedule"]["triangle"]["summit"], "schedule.summit" in known_keys(), answer("schedule", "triangel"))
"""
    assert ask([root], code) == ("0.5 True schedule.name=triangel: no such schedule. Did you mean triangle?\n")


def test_two_files_of_one_name_are_both_named_and_other_names_work(tmp_path: Path) -> None:
    root = write_namespace(tmp_path, first=TRIANGLE, second=TRIANGLE)
    code = "print(answer('schedule', 'triangle')); print(answer('schedule', 'cosine')); " + NAMES
    message, ours, names = ask([root], code).splitlines()
    assert message.startswith("schedule 'triangle' is registered twice, in ")
    for name in ("first.py", "second.py"):
        assert str(root / "depthlab_extensions" / name) in message
    assert ours == "Cosine"
    assert set(OURS) <= set(json.loads(names)) - {"triangle"} == set(json.loads(names))


def test_a_file_that_takes_one_of_our_names_is_named_with_ours(tmp_path: Path) -> None:
    root = write_namespace(tmp_path, mine=TRIANGLE.replace('"triangle"', '"cosine"'))
    message = ask([root], "print(answer('schedule', 'cosine'), answer('schedule', 'step'))")
    assert "optim/components/cosine.py" in message
    assert str(root / "depthlab_extensions" / "mine.py") in message
    assert message.endswith(" Step\n")


@pytest.mark.parametrize("name", ["triangle", "cosine"])
def test_a_name_that_two_files_register_is_refused_on_the_command_line_with_both(tmp_path: Path, name: str) -> None:
    mine = TRIANGLE.replace('"triangle"', f'"{name}"')
    root = write_namespace(tmp_path, first=mine, second=mine)
    code = f"""
from contextlib import redirect_stderr
from io import StringIO
from depthlab.commands.train import train
with redirect_stderr(StringIO()) as said:
    code = train(["schedule={name}", "dry_run=true"])
print(code, said.getvalue())
"""
    answer = ask([root], code)
    assert answer.startswith(f"2 error: schedule '{name}' is registered twice, in "), answer
    assert str(root / "depthlab_extensions" / "second.py") in answer


def test_one_file_cannot_register_two_classes_under_one_name(tmp_path: Path) -> None:
    root = write_namespace(tmp_path, mine=TRIANGLE + TRIANGLE.replace("class Triangle", "class Other"))
    assert "registered twice" in ask([root], "print(answer('schedule', 'triangle'))")


PLAIN = """
@register("schedule", "not_there")
@dataclass(frozen=True)
class Mine(ScheduleSpec):
    {key}
"""
LAST_LINE = PLAIN.count("\n") + LINES_BEFORE
MISTAKES = {
    "no type": (PLAIN.format(key='summit = key(0.5, help="x")'), "TypeError: 'summit' is a field but has no type"),
    "mutable": (PLAIN.format(key='at: list[int] = key([1], help="x")'), r"key([1], ...): the default is mutable"),
    "plain": (PLAIN.format(key="summit: float = 0.5"), "declare summit with key(..., help=...), as every key."),
    "no default": (PLAIN.format(key="summit: float = field(kw_only=True)"), "declare summit with key(..., help=...)"),
    "taken": (PLAIN.format(key='shape: int = key(1, help="x")'), "the key 'shape' is taken. Rename it."),
    "selector": (PLAIN.format(key='name: str = key("", help="x")'), "the key 'name' is taken"),
    "reserved": (PLAIN.format(key='values: int = key(1, help="x")'), "the key 'values' is taken"),
    "preset": (
        PLAIN.format(key='presets = {"early": {"peek": 1}}\n    peak: int = key(1, help="x")'),
        "its preset 'early' has no such key as peek. Did you mean peak?",
    ),
    "other base": (PLAIN.replace("ScheduleSpec", "ModelSpec").format(key="pass"), "must derive from ScheduleSpec"),
    "a key's name": (
        PLAIN.replace('"schedule", "not_there"', '"logger", "every_steps"')
        .format(key="pass")
        .replace("Schedule", "Logger"),
        "has the name of a key that every configuration has in 'logger'. Rename it.",
    ),
    "no group": (PLAIN.replace('"schedule"', '"shedule"').format(key="pass"), "no such group. Did you mean schedule?"),
    "bad name": (PLAIN.replace('"not_there"', '"my-own"').format(key="pass"), "use letters, digits and _ in the name"),
    "no dataclass": (
        PLAIN.replace("@dataclass(frozen=True)\n", "").format(key='at: int = key(1, help="x")'),
        "decorate the class with @dataclass(frozen=True), below @register.",
    ),
    "not frozen": (PLAIN.replace("(frozen=True)", "").format(key="pass"), "cannot inherit non-frozen dataclass"),
    "import": ("\nimport no_such_module_of_mine\n", "No module named 'no_such_module_of_mine'"),
    "syntax": ("\ndef (:\n", "SyntaxError: "),
    "raises": ("\nraise RuntimeError('first line\\nsecond line')\n", "RuntimeError: first line"),
    "library": ("\nimport json\njson.loads('{')\n", "JSONDecodeError: "),
}


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """For each mistake, what a lookup of its component and of ours answers, and the extensions that are broken."""
    root = tmp_path_factory.mktemp("mistakes")
    sources = {f"wrong_{idx}": source for idx, (source, _) in enumerate(MISTAKES.values())}
    write_namespace(root, good=TRIANGLE, **sources)
    code = """
import json
found = broken()
answers = [answer("schedule", name) for name in ("triangle", "cosine", "not_there")]
print(json.dumps([found, *answers]))
"""
    broken, good, ours, missing = json.loads(ask([root], code))
    assert (good, ours) == ("Triangle", "Cosine")
    return {
        kind: [
            broken[f"depthlab_extensions.wrong_{idx}"],
            missing,
            str(root / "depthlab_extensions" / f"wrong_{idx}.py"),
        ]
        for idx, kind in enumerate(MISTAKES)
    }


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_is_told_by_file_and_line_and_nothing_else_stops_working(
    answers: dict[str, list[str]], kind: str
) -> None:
    message, lookup, file = answers[kind]
    source, expected = MISTAKES[kind]
    module = Path(file).stem
    assert message.startswith(f"The extension depthlab_extensions.{module} cannot be imported: {file}:")
    line = int(message.split(f"{file}:")[1].split(":")[0])
    assert LINES_BEFORE < line <= LINES_BEFORE + source.count("\n")
    assert expected in message
    assert len(message.splitlines()) == 1
    assert message in lookup
    assert lookup.startswith("schedule.name=not_there: no such schedule. ")


@pytest.mark.parametrize("error", ["BaseException('odd')", "SystemExit(3)"])
def test_nothing_that_an_extension_raises_ends_the_process(tmp_path: Path, error: str) -> None:
    root = write_namespace(tmp_path, ends=f"\nraise {error}\n")
    kind, _, rest = error.partition("(")
    assert f"{kind}: {rest.strip(chr(39) + ')')}" in ask([root], "print(broken())")


def test_an_extension_that_is_installed_changes_no_name_of_a_run(tmp_path: Path) -> None:
    code = """
from pathlib import Path
from depthlab.config.check import check
from depthlab.config.identity import flatten, identify
from depthlab.config.schema import as_dict
from depthlab.records.record import find_records, read_record
for directory in find_records(Path("results/digits_depth")):
    record = read_record(directory)
    tree = flatten(as_dict(check(record.config)))
    tree["trainer.precision"] = record["precision"]
    assert identify(tree, record["num_processes"]).directory == directory.name
print("all", len(list(find_records(Path("results/digits_depth")))), sorted(installed_extensions()))
"""
    extension = (
        TRIANGLE
        + """
from depthlab.data.spec import AugmentationSpec
from depthlab.tasks.spec import LossSpec, MetricSpec
from depthlab.training.spec import LoggerSpec

@register("augment", "blur")
@dataclass(frozen=True)
class Blur(AugmentationSpec):
    main = "radius"
    radius: float = key(0.0, identity_default=0, minimum=0, help="pixels")

@register("augment", "cutout")
@dataclass(frozen=True)
class Cutout(AugmentationSpec):
    size: int = key(0, help="pixels")
    number: int = key(1, help="of holes")

@register("callbacks", "count")
@dataclass(frozen=True)
class Count(CallbackSpec):
    pass

@register("logger", "lines")
@dataclass(frozen=True)
class Lines(LoggerSpec):
    pass

@register("metrics", "kappa")
@dataclass(frozen=True)
class Kappa(MetricSpec):
    pass

@register("loss", "poly")
@dataclass(frozen=True)
class Poly(LossSpec):
    epsilon: float = key(1.0, help="weight")
"""
    )
    said = ask([write_namespace(tmp_path, many=extension)], code)
    assert said.startswith("all ")
    assert int(said.split()[1]) > 10
    assert "depthlab_extensions.many" in said
