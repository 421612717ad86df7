"""Every mistake in a suite is found when it is read, and the message names the key, what was expected and the nearest valid one."""

from __future__ import annotations

from pathlib import Path

import pytest

from metabench.core.errors import MetabenchError
from metabench.suite.config.keys import Device, Suite
from metabench.suite.config.load import load_suite, memory_bytes, to_yaml

EXPERIMENT = "experiments: {a: {problem: toy_1d, methods: [none]}}"

MISTAKES = [
    ("nam: x", "unknown key 'nam': did you mean 'name'?"),
    ("title: x", "key 'name' is missing: name of the suite"),
    ("name: x\nlimits: {second: 1}", "unknown key of limits 'second': did you mean 'seconds'?"),
    ("name: x\nlimits: 3", "key 'limits': expected a mapping with keys among seconds, memory; got 3"),
    ("name: x\nlimits: {seconds: soon}", "key 'limits.seconds': expected a number, got 'soon'"),
    ("name: x\nlimits: {seconds: 0}", "key 'limits.seconds': must be above 0 and finite, got 0.0"),
    ("name: x\nlimits: {seconds: .inf}", "key 'limits.seconds': must be above 0 and finite, got inf"),
    ("name: x\nlimits: {seconds: .nan}", "key 'limits.seconds': must be above 0 and finite, got nan"),
    (
        "name: x\ndevice_memory: 24G",
        "key 'device_memory': expected a number of bytes with its unit, as '512MiB' or '4GiB', got '24G'",
    ),
    ("name: x\ndevice_memory: 0GiB", "key 'device_memory': must be above 0, got '0GiB'"),
    (
        "name: x\ndevice_memory: 24GiB\npredict: false",
        "key 'device_memory': it has no effect while 'predict' is false",
    ),
    (
        "name: x\nlimits: {memory: 4096}",
        "key 'limits.memory': expected a number of bytes with its unit, as '512MiB' or '4GiB', got '4096'",
    ),
    ("name: x\nseeds: 3", "key 'seeds': expected a list of whole numbers, got 3"),
    ("name: x\nseeds: [a]", "key 'seeds[0]': expected a list of whole numbers, got 'a'"),
    ("name: x\nseeds: [true]", "key 'seeds[0]': expected a list of whole numbers, got True"),
    ("name: x\nseeds: [1.5]", "key 'seeds[0]': expected a list of whole numbers, got 1.5"),
    ("name: x\nseeds: []", "key 'seeds': expected at least one seed and none twice, got []"),
    ("name: x\nseeds: [1, 1]", "key 'seeds': expected at least one seed and none twice, got [1, 1]"),
    ("name: x\nseeds: [-1]", "key 'seeds': must be at least 0, got -1"),
    (f"name: x\nseeds: [{2**63}]", "key 'seeds': must be at most 9223372036854775807, got 9223372036854775808"),
    (
        f"name: x\n{EXPERIMENT[:-2]}, seeds: [{2**64}]}}}}",
        "key 'experiments.a.seeds': must be at most 9223372036854775807, got 18446744073709551616",
    ),
    ("name: x\ntitle: of ${oc.env:HOME}", "key 'title': 'of ${oc.env:HOME}' reads an environment variable, and the suite is published"),
    ("name: x\nplugins: ['${oc.decode:${oc.env:HOME}}']", "key 'plugins[0]': '${oc.decode:${oc.env:HOME}}' reads an environment variable"),
    (
        f"name: x\n{EXPERIMENT[:-2]}, options: {{a: ['${{oc.env:HOME,none}}']}}}}}}",
        "key 'experiments.a.options.a[0]': '${oc.env:HOME,none}' reads an environment variable",
    ),
    ("name: x\ndevice: cud", "key 'device': unknown value 'cud': did you mean 'cuda'?"),
    ("name: x\nthreads: 0", "key 'threads': must be at least 1, got 0"),
    ("name: [x]", "key 'name': expected text, got ['x']"),
    ("name:", "key 'name': expected text, got None"),
    ("name: a/b", "key 'name': 'a/b' is to name a folder"),
    ("name: ..", "key 'name': '..' is to name a folder"),
    ("name: ''", "key 'name': '' is to name a folder"),
    ("name: ${bogus}", "key 'name': Interpolation key 'bogus' not found"),
    (
        "name: x\nexperiments: [a]",
        "key 'experiments': expected a mapping from names to experiments (none: {}), got ['a']",
    ),
    ("name: x\nexperiments: {a: 3}", "key 'experiments.a': expected a mapping with keys among problem, datasets"),
    ("name: x\nexperiments: {a b: {}}", "key 'experiments': 'a b' is not a name"),
    ("name: x\nexperiments: {a: {methods: [none]}}", "key 'experiments.a.problem' is missing: bilevel problem"),
    (
        "name: x\nexperiments: {a: {problem: toy_1d, methods: none}}",
        "key 'experiments.a.methods': expected a list of values, got 'none'",
    ),
    (f"name: x\n{EXPERIMENT[:-2]}, data: []}}}}", "unknown key of experiments.a 'data': did you mean 'datasets'?"),
    (
        f"name: x\n{EXPERIMENT[:-2]}, seeds: [0, 0]}}}}",
        "key 'experiments.a.seeds': expected at least one seed and none twice",
    ),
    (f"name: x\n{EXPERIMENT[:-2]}, inner_steps: [0]}}}}", "key 'experiments.a.inner_steps': must be at least 1, got 0"),
    ("name: x\nname: y", "is not valid YAML: line 2, column 1: found duplicate key name"),
    ("a: [", "is not valid YAML: line 2, column 1"),
    ("- a", "expected a mapping of keys to values"),
    ("", "key 'name' is missing"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_in_a_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "suite.yaml"
    path.write_text(text)
    with pytest.raises(MetabenchError) as error:
        load_suite(path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(MetabenchError, match=r"none\.yaml': no such file"):
        load_suite(tmp_path / "none.yaml")
    with pytest.raises(MetabenchError, match="cannot be read"):
        load_suite(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MetabenchError, match=r"binary\.yaml' is not"):
        load_suite(tmp_path / "binary.yaml")


def test_a_mapping_is_read_as_a_file_is() -> None:
    suite = load_suite(
        {"name": "x", "device": "cuda", "experiments": {"a": {"problem": "toy_1d", "methods": ["none", {"t1t2": {}}]}}}
    )
    assert suite.device is Device.cuda
    assert suite.experiments["a"].methods == ["none", {"t1t2": {}}]
    with pytest.raises(MetabenchError, match="configuration: unknown key 'titel': did you mean 'title'"):
        load_suite({"name": "x", "titel": ""})


def test_overrides_go_on_top() -> None:
    overrides = [
        "name=y",
        "seeds=[5, 6]",
        "limits.seconds=7",
        "limits={memory: 1GiB}",
        "experiments.a.methods=[none, t1t2]",
        "title=a=b",
    ]
    suite = load_suite({"name": "x", "experiments": {"a": {"problem": "toy_1d", "methods": []}}}, overrides)
    assert (suite.name, suite.seeds, suite.title) == ("y", [5, 6], "a=b")
    assert (suite.limits.seconds, suite.limits.memory) == (7.0, "1GiB")
    assert suite.experiments["a"].methods == ["none", "t1t2"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("seeds", "override 'seeds': expected 'key=value'"),
        ("=3", "override '=3': expected 'key=value'"),
        ("seeds=[0", "override 'seeds=[0' does not fit configuration: "),
        ("seds=[0]", "unknown key 'seds': did you mean 'seeds'?"),
        ("threads=many", "key 'threads': expected a whole number, got 'many'"),
        ("experiments.a=3", "key 'experiments.a': expected a mapping"),
    ],
)
def test_a_mistake_in_an_override_is_named(override: str, message: str) -> None:
    with pytest.raises(MetabenchError) as error:
        load_suite({"name": "x"}, [override])
    assert message in str(error.value)


def test_a_suite_may_be_empty() -> None:
    assert load_suite({"name": "x"}) == Suite(name="x")


def test_defaults_are_not_shared_between_suites() -> None:
    first, second = load_suite({"name": "x"}), load_suite({"name": "y"})
    first.seeds.append(9)
    first.limits.seconds = 1.0
    assert second.seeds == [0, 1, 2]
    assert second.limits.seconds == 300.0


def test_the_resolved_configuration_reads_back_as_the_same_suite(tmp_path: Path) -> None:
    suite = load_suite(
        {
            "name": "x",
            "device": "cuda",
            "experiments": {"a": {"problem": "toy_1d", "methods": ["none", {"evograd": {"copies": [2, 3]}}]}},
        }
    )
    path = tmp_path / "resolved.yaml"
    path.write_text(to_yaml(suite))
    assert load_suite(path) == suite


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1B", 1),
        ("2KB", 2000),
        ("512MiB", 512 * 2**20),
        ("4 GiB", 4 * 2**30),
        ("1.5GiB", 3 * 2**29),
        ("3GB", 3 * 10**9),
        ("1TiB", 2**40),
    ],
)
def test_memory_is_read_with_its_unit(text: str, size: int) -> None:
    assert memory_bytes(text) == size


@pytest.mark.parametrize("text", ["4", "4G", "-1GiB", "1e3MiB", "GiB", "0MiB", "nan GiB", ""])
def test_memory_without_a_unit_or_size_is_refused(text: str) -> None:
    with pytest.raises(MetabenchError, match="limits: "):
        memory_bytes(text, "limits")


def test_of_a_key_in_two_files_the_later_counts(tmp_path: Path) -> None:
    first, second, third = (tmp_path / f"{name}.yaml" for name in ("first", "second", "third"))
    first.write_text(f"name: first\nseeds: [1, 2]\nlimits: {{seconds: 7, memory: 1GiB}}\n{EXPERIMENT}")
    second.write_text("name: second\nseeds: [3]\nlimits: {seconds: 8}")
    third.write_text("limits: 3")
    suite = load_suite([first, second], ["seeds=[4]"])
    assert (suite.name, suite.seeds, suite.limits.seconds, suite.limits.memory) == ("second", [4], 8, "1GiB")
    assert load_suite([first]) == load_suite(first)
    with pytest.raises(MetabenchError, match="limits"):
        load_suite([first, third])


def test_an_override_may_not_read_the_environment_but_may_refer_to_a_key() -> None:
    with pytest.raises(MetabenchError, match=r"key 'description': .* reads an environment variable"):
        load_suite({"name": "x"}, ["description=${oc.env:HOME}"])
    assert load_suite({"name": "x"}, ["title=of ${name}"]).title == "of x"
