from __future__ import annotations

import pytest

from bridge.rules.load import parse_rules
from shared.errors import ConfigurationError

RULES = """version: 1
schema_registry: {url: "http://r", user: me, password: "PASSWORD", properties: {some.property: "PROPERTY"}}
sources: [{name: s, topics: [t]}]
routes:
  - {name: r, channel: c, MORE}
"""


def rules(hidden: str = "x", property_: str = "y", more: str = "ttl: 1h") -> str:
    return RULES.replace("PASSWORD", hidden).replace("PROPERTY", property_).replace("MORE", more)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse_rules(text.encode(), "rules.yaml")
    return caught.value.problems


def test_a_secret_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RULES_TEST_SECRET", "hidden-value")
    found = parse_rules(rules("${env:RULES_TEST_SECRET}", "a ${env:RULES_TEST_SECRET} b").encode(), "rules.yaml")
    assert "hidden-value" not in repr(found)


def test_a_variable_that_is_not_set_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RULES_TEST_SECRET", raising=False)
    found = sorted(problems(rules("${env:RULES_TEST_SECRET}", "${env:1x}")))
    assert found[0].endswith('schema_registry.password: needs the environment variable "RULES_TEST_SECRET", which is not set')
    assert found[1].endswith('some.property: has a reference to the environment with "1x", which is no name of a variable')
    assert len(found) == 2


def test_another_way_of_writing_it_is_told():
    (found,) = problems(rules("${SECRET}"))
    assert found.endswith("has ${SECRET}; a value from the environment is written ${env:SECRET}")


@pytest.mark.parametrize(
    ("more", "place"),
    [
        ("where: \"item.a == '${env:RULES_TEST_SECRET}'\"", "routes[0].where"),
        ("project: {a: \"'${env:RULES_TEST_SECRET}'\"}", "routes[0].project.a"),
        ('const: {a: ["${env:RULES_TEST_SECRET}"]}', "routes[0].const.a[0]"),
        ('tags: ["${env:RULES_TEST_SECRET}"]', "routes[0].tags[0]"),
    ],
)
def test_elsewhere_it_is_refused_and_not_looked_up(more: str, place: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RULES_TEST_SECRET", "hidden-value")
    found = problems(rules(more=more))
    told = "has ${env:RULES_TEST_SECRET}; values from the environment are for passwords and properties of connections only"
    assert f"rules.yaml:5: {place}: {told}" in found
    assert not any("hidden-value" in line for line in found)


def test_the_address_of_a_registry_is_no_secret():
    (found,) = problems(rules().replace("http://r", "http://${env:HOST}"))
    assert found.startswith("rules.yaml:2: schema_registry.url: has ${env:HOST};")
