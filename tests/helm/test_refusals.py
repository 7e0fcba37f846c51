"""Values that cannot work are refused before anything is installed, in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Refusal = Callable[..., str]
Render = Callable[..., object]


def test_all_that_is_missing_is_told_at_once(refusal: Refusal) -> None:
    text = refusal(None)
    assert "bridge.bootstrapServers is missing" in text
    assert "bridge.rules is missing" in text
    assert "no bus: set redis.enabled=true" in text


@pytest.mark.parametrize(
    ("values", "setting", "expected"),
    [
        ("trial", "bridge.bootstrapServers=", "bridge.bootstrapServers is missing"),
        ("trial", "redis.enabled=false", "no bus: set redis.enabled=true"),
        ("trial", "bus.url=redis://other", "more than one bus: redis.enabled and bus.url"),
        ("trial", "bus.existingSecret=mine", "more than one bus: redis.enabled and bus.existingSecret"),
        ("own-bus", "bus.url=", "bus.edgeUrl needs bus.url"),
        ("trial", "bridge.existingRulesConfigMap=mine", "bridge.rules and bridge.existingRulesConfigMap are both given"),
        ("full", "edge.existingNamespacesConfigMap=mine", "edge.namespaces and edge.existingNamespacesConfigMap are both given"),
        ("own-bus", "bridge.kafkaProperties.sasl\\.password=x", "has sasl.password beside bridge.existingKafkaPropertiesSecret"),
        ("full", "bridge.kafkaProperties.group\\.instance\\.id=x", "group.instance.id with more than one replica"),
        ("trial", "bridge.schemas.rules\\.yaml=x", "bridge.schemas.rules.yaml is the name of the rules"),
        ("own-bus", "networkPolicy.bus.to=null", "networkPolicy.bus.to is missing"),
        ("trial", "bridge.bootstrapServers=kafka:19092", "does not let the bridge reach port 19092"),
        ("trial", "edge.ingress.enabled=true", "edge.ingress.hosts is missing"),
        ("trial", "edge.internalPort=8000", "edge.port and edge.internalPort are the same"),
        ("full", "edge.autoscaling.maxReplicas=2", "minReplicas is larger than"),
        ("trial", "edge.maxSurge=0", "edge.maxSurge and edge.maxUnavailable are both 0"),
        ("trial", "fullnameOverride=", "does not begin with a letter"),
    ],
)
def test_values_that_contradict_each_other(refusal: Refusal, values: str, setting: str, expected: str) -> None:
    text = refusal(values, "--set", setting, release="1" if "letter" in expected else "x")
    assert "These values cannot work" in text
    assert expected in text


@pytest.mark.parametrize(
    ("setting", "where", "why"),
    [
        ("bridge.bootstrapServers=kafka", "/bridge/bootstrapServers", "does not match pattern"),
        ("bridge.bootstrapServers=http://kafka:9092", "/bridge/bootstrapServers", "does not match pattern"),
        ("bridge.replicas=two", "/bridge/replicas", "want integer"),
        ("bridge.replica=2", "/bridge", "'replica' not allowed"),
        ("bridge.group=", "/bridge/group", "minLength"),
        ("bridge.workers=0", "/bridge/workers", "minimum"),
        ("bridge.schemas.a/b=x", "/bridge/schemas", "'a/b' not allowed"),
        ("bridge.existingSchemasConfigMaps[0]=mine", "/bridge/existingSchemasConfigMaps/0", "want object"),
        ("bridge.extraEnvFrom[0].secret=mine", "/bridge/extraEnvFrom/0", "'secret' not allowed"),
        ("bridge.checkRules=false", "/bridge/checkRules", "want object"),
        ("bridge.checkRules.enable=false", "/bridge/checkRules", "'enable' not allowed"),
        ("bridge.checkRules.activeDeadlineSeconds=0", "/bridge/checkRules/activeDeadlineSeconds", "minimum"),
        ("bridge.internalPort=70000", "/bridge/internalPort", "maximum"),
        ("bridge.kafkaProperties.a=b\nc=d", "/bridge/kafkaProperties/a", "does not match pattern"),
        ("bridge.kafkaProperties.A b=c", "/bridge/kafkaProperties", "'A b' not allowed"),
        ("bridge.podLabels.a=b c", "/bridge/podLabels/a", "does not match pattern"),
        ("edge.port=0", "/edge/port", "minimum"),
        ("edge.logFormat=xml", "/edge/logFormat", "must be one of 'json', 'text'"),
        ("edge.workers=0", "/edge/workers", "minimum"),
        ("edge.workers=two", "/edge/workers", "want integer"),
        ("edge.namespaces.default=x", "/edge/namespaces", "want string"),
        ("edge.drainSeconds=-1", "/edge/drainSeconds", "minimum"),
        ("edge.bootstrapServers=kafka:9092", "/edge", "'bootstrapServers' not allowed"),
        ("edge.resources.limits.memory=1gigabyte", "/edge/resources/limits/memory", "does not match pattern"),
        ("edge.resources.limit.memory=1Gi", "/edge/resources", "'limit' not allowed"),
        ("edge.service.type=External", "/edge/service/type", "must be one of"),
        ("edge.ingress.hosts[0].host=http://live", "/edge/ingress/hosts/0/host", "does not match pattern"),
        ("edge.image.digest=sha256:1", "/edge/image/digest", "does not match pattern"),
        ("edge.maxSurge=150%", "/edge/maxSurge", "does not match pattern"),
        ("bus.url=http://redis:6379", "/bus/url", "does not match pattern"),
        ("bus.urls=redis://redis", "/bus", "'urls' not allowed"),
        ("redis.maxmemory=lots", "/redis/maxmemory", "does not match pattern"),
        ("image.pullPolicy=Sometimes", "/image/pullPolicy", "must be one of"),
        ("networkPolicy.enabled=yes", "/networkPolicy/enabled", "want boolean"),
        ("networkPolicy.bus.to[0].cidr=10.0.0.0/8", "/networkPolicy/bus/to/0", "'cidr' not allowed"),
        ("networkPolicy.edgeExtraEgress[0].to=x", "/networkPolicy", "'edgeExtraEgress' not allowed"),
        ("sentinel.enabled=true", "''", "'sentinel' not allowed"),
    ],
)
def test_the_schema_names_the_place_and_the_reason(refusal: Refusal, setting: str, where: str, why: str) -> None:
    text = refusal("trial", "--set", setting)
    assert "don't meet the specifications of the schema" in text
    lines = [line for line in text.splitlines() if where in line]
    assert lines, text
    assert any(why in line for line in text.splitlines()), text


@pytest.mark.parametrize(
    ("setting", "where", "why"),
    [
        ('bridge.rules={"routes":[]}', "/bridge/rules", "want string"),
        ('networkPolicy.kafka.to=["anywhere"]', "/networkPolicy/kafka/to/0", "want object"),
        # For Kubernetes an empty list of peers means "anywhere".
        ("networkPolicy.kafka.to=[]", "/networkPolicy/kafka/to", "minItems"),
        ("networkPolicy.dns.to=[]", "/networkPolicy/dns/to", "minItems"),
        ("networkPolicy.kafka.to=[{}]", "/networkPolicy/kafka/to/0", "minProperties"),
    ],
)
def test_values_of_the_wrong_shape(refusal: Refusal, setting: str, where: str, why: str) -> None:
    text = refusal("trial", "--set-json", setting)
    assert where in text
    assert why in text


@pytest.mark.parametrize(
    "setting",
    [
        "bridge.bootstrapServers=a:9092\\,b.c-d:9093",
        "bridge.bootstrapServers=[fd00::1]:9092",
        "edge.resources.limits.cpu=500m",
        "edge.resources.limits.cpu=2",
        "edge.resources.limits.memory=1e9",
        "edge.maxSurge=100%",
        "redis.maxmemory=1gb",
        "global.anything=1",
    ],
)
def test_good_values_are_not_refused(render: Render, setting: str) -> None:
    assert render("trial", "--set", setting)


@pytest.mark.parametrize("value", ["commonLabels", "bridge.schemas", "bridge.kafkaProperties", "bridge.podLabels", "edge.resources"])
def test_what_may_be_empty_may_be_null(render: Render, value: str) -> None:
    assert render("trial", "--set", f"{value}=null")


@pytest.mark.parametrize("value", ["tests", "bridge.checkRules", "bridge.bootstrapServers", "edge.service.port", "networkPolicy.kafka.to"])
def test_what_is_needed_and_null_is_named(refusal: Refusal, value: str) -> None:
    """`--reuse-values` does the same: it leaves out what a new chart has brought."""
    assert f"missing property '{value.rpartition('.')[2]}'" in refusal("trial", "--set", f"{value}=null")
