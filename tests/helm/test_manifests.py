"""What the chart makes of its values: valid for Kubernetes, hardened, and with an edge that has no way to Kafka."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import copytree
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from bridge.adapters.rules_file import RulesFile
from bridge.rules.load import load_rules
from edge.core.delivery import Mode
from edge.namespaces import load_policies

CHART = Path(__file__).resolve().parents[2] / "helm" / "distributary"
VALUES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
COMPONENT = "app.kubernetes.io/component"

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]


def find(manifests: list[Manifest], kind: str, component: str) -> list[Manifest]:
    """The manifests of one kind that belong to a component."""
    return [one for one in manifests if one["kind"] == kind and one["metadata"]["labels"][COMPONENT] == component]


def only(manifests: list[Manifest], kind: str, component: str, name: str = "") -> Manifest:
    """The one manifest of a kind that belongs to a component (and whose name ends so)."""
    (found,) = [one for one in find(manifests, kind, component) if one["metadata"]["name"].endswith(name)]
    return found


def pods(manifests: list[Manifest]) -> Iterator[Manifest]:
    """Every pod and pod template: an object with metadata and spec."""
    for one in manifests:
        if one["kind"] in {"Deployment", "Job"}:
            yield one["spec"]["template"]
        elif one["kind"] == "Pod":
            yield one


def pod_of(manifests: list[Manifest], component: str) -> Manifest:
    """The pod template of a component's Deployment."""
    template: Manifest = only(manifests, "Deployment", component)["spec"]["template"]
    return template


def environment(manifests: list[Manifest], component: str) -> dict[str, Any]:
    """Name to value, or to its source."""
    (container,) = pod_of(manifests, component)["spec"]["containers"]
    return {one["name"]: one.get("value", one.get("valueFrom")) for one in container["env"]}


def egress(manifests: list[Manifest], component: str) -> list[tuple[list[Manifest], set[Any]]]:
    """Peers and ports of each egress rule of a component; a rule without either reaches everything and fails here."""
    policy = only(manifests, "NetworkPolicy", component)["spec"]
    assert "Egress" in policy["policyTypes"]
    assert all(rule["to"] and rule["ports"] for rule in policy["egress"])
    return [(rule["to"], {one["port"] for one in rule["ports"]}) for rule in policy["egress"]]


@pytest.mark.parametrize("values", VALUES)
def test_lint_finds_nothing(helm: str, run: Callable[..., CompletedProcess[str]], values: str) -> None:
    done = run(helm, "lint", "--strict", CHART, "-f", CHART / "ci" / f"{values}-values.yaml")
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


@pytest.mark.parametrize("values", VALUES)
def test_kubernetes_knows_every_field(
    template: Callable[..., CompletedProcess[str]], kubeconform: Callable[[str], CompletedProcess[str]], values: str
) -> None:
    checked = kubeconform(template(values).stdout)
    assert checked.returncode == 0, checked.stdout
    assert "Skipped: 0" in checked.stdout


def test_the_check_itself_finds_an_unknown_field(
    template: Callable[..., CompletedProcess[str]], kubeconform: Callable[[str], CompletedProcess[str]]
) -> None:
    text = template("trial").stdout
    for good, bad in (("enableServiceLinks", "enableServiceLink"), ("replicas: 2", "replicas: two"), ("endPort", "endport")):
        assert good in text
        assert kubeconform(text.replace(good, bad)).returncode != 0, bad


@pytest.mark.parametrize("values", VALUES)
def test_nothing_of_the_edge_knows_kafka(render: Render, values: str) -> None:
    manifests = render(values)
    mine = [one for one in manifests if one["metadata"]["labels"][COMPONENT] in {"edge", "test"}]
    assert len(mine) >= 3
    text = json.dumps(mine).lower()
    assert "kafka" not in text
    assert not re.search(r"\b909[0-9]\b", text)
    volumes = [volume for pod in pods(mine) for volume in pod["spec"].get("volumes", [])]
    assert {volume["name"] for volume in volumes if "configMap" in volume or "secret" in volume} <= {"namespaces"}


def test_edges_reach_only_the_trial_redis_and_dns(render: Render) -> None:
    dns, bus = egress(render("trial"), "edge")
    assert dns[1] == {53}
    assert [list(peer) for peer in dns[0]] == [["namespaceSelector", "podSelector"]]
    assert bus[1] == {6379}
    assert [peer["podSelector"]["matchLabels"][COMPONENT] for peer in bus[0]] == ["redis"]


def test_edges_reach_only_the_own_bus_and_dns(render: Render) -> None:
    _, bus = egress(render("own-bus"), "edge")
    assert bus == ([{"ipBlock": {"cidr": "10.0.3.7/32"}}], {6380})
    _, bus = egress(render("full"), "edge")
    assert bus[1] == {6380, 26379}


@pytest.mark.parametrize(
    ("urls", "ports"),
    [
        ("redis://a", {6379}),
        ("redis://u:p@a:7000/0\\,rediss://[fd00::1]:7001\\,redis://[fd00::1]", {7000, 7001, 6379}),
    ],
)
def test_ports_of_the_bus_are_those_of_its_urls(render: Render, urls: str, ports: set[int]) -> None:
    _, bus = egress(render("own-bus", "--set", f"bus.url={urls}", "--set", "bus.edgeUrl="), "edge")
    assert bus[1] == ports


def test_bridges_reach_kafka_too(render: Render) -> None:
    rules = egress(render("trial"), "bridge")
    assert rules[:2] == egress(render("trial"), "edge")
    assert rules[2:] == [([{"namespaceSelector": {}}], {9092})]
    assert egress(render("own-bus"), "bridge")[2:] == [([{"ipBlock": {"cidr": "10.0.4.0/24"}}], {9094})]
    assert egress(render("full"), "bridge")[3:] == [([{"podSelector": {"matchLabels": {"app": "registry"}}}], {8081})]


def test_the_trial_redis_is_reached_by_bridge_and_edge_and_reaches_nothing(render: Render) -> None:
    policy = only(render("trial"), "NetworkPolicy", "redis")["spec"]
    (rule,) = policy["ingress"]
    assert [peer["podSelector"]["matchLabels"][COMPONENT] for peer in rule["from"]] == ["bridge", "edge"]
    assert policy["egress"] == []
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}


def test_internal_ports_are_closed_unless_opened(render: Render) -> None:
    manifests = render("trial", "--set", "tests.enabled=false")
    assert only(manifests, "NetworkPolicy", "bridge")["spec"]["ingress"] == []
    assert only(manifests, "NetworkPolicy", "edge")["spec"]["ingress"] == [{"ports": [{"protocol": "TCP", "port": 8000}]}]
    opened = only(render("full"), "NetworkPolicy", "bridge")["spec"]["ingress"]
    assert [rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in opened] == [{"kubernetes.io/metadata.name": "monitoring"}]


@pytest.mark.parametrize("values", VALUES)
def test_the_internal_port_is_never_public(render: Render, values: str) -> None:
    manifests = render(values)
    public = only(manifests, "Service", "edge", "-edge")
    assert [port["targetPort"] for port in public["spec"]["ports"]] == ["public"]
    for ingress in find(manifests, "Ingress", "edge"):
        backends = [path["backend"]["service"] for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]]
        assert backends
        assert {backend["name"] for backend in backends} == {public["metadata"]["name"]}
    assert only(manifests, "Service", "edge", "-internal")["spec"]["clusterIP"] == "None"


@pytest.mark.parametrize("values", VALUES)
def test_pods_are_restricted(render: Render, values: str) -> None:
    for pod in pods(render(values)):
        spec = pod["spec"]
        assert spec["automountServiceAccountToken"] is False
        assert spec["enableServiceLinks"] is False
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]
            assert container["resources"]["requests"]["cpu"]


@pytest.mark.parametrize("values", VALUES)
def test_selectors_find_their_pods_and_ports(render: Render, values: str) -> None:
    manifests = render(values)
    for service in (one for one in manifests if one["kind"] == "Service"):
        chosen = [pod for pod in pods(manifests) if service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()]
        assert len(chosen) == 1, service["metadata"]["name"]
        names = {port["name"] for container in chosen[0]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
    for one in manifests:
        if one["kind"] in {"PodDisruptionBudget", "NetworkPolicy"}:
            selector = one["spec"].get("selector") or one["spec"]["podSelector"]
            assert sum(selector["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in pods(manifests)) == 1


def test_bridge_gets_each_option(render: Render) -> None:
    assert environment(render("trial"), "bridge") == {
        "BRIDGE_RULES": "/etc/distributary/rules.yaml",
        "BRIDGE_BOOTSTRAP_SERVERS": "kafka.kafka.svc:9092",
        "BRIDGE_GROUP": "distributary",
        "BRIDGE_BUS": {"secretKeyRef": {"name": "x-distributary-bus", "key": "bridge-url"}},
        "BRIDGE_INTERNAL_HOST": "0.0.0.0",
        "BRIDGE_INTERNAL_PORT": "9100",
        "BRIDGE_LOG_FORMAT": "json",
    }
    full = environment(render("full"), "bridge")
    assert full["BRIDGE_KAFKA_PROPERTIES"] == "/etc/distributary-kafka/kafka.properties"
    assert full["BRIDGE_WORKERS"] == "2"
    assert full["TZ"] == "UTC"


def test_edge_gets_each_option(render: Render) -> None:
    assert environment(render("full"), "edge") == {
        "EDGE_BUS": {"secretKeyRef": {"name": "my-bus", "key": "reader"}},
        "EDGE_HOST": "0.0.0.0",
        "EDGE_PORT": "8080",
        "EDGE_INTERNAL_HOST": "0.0.0.0",
        "EDGE_INTERNAL_PORT": "9201",
        "EDGE_DRAIN_S": "60",
        "EDGE_WORKERS": "4",
        "EDGE_MAX_CONNECTIONS": "2000000",
        "EDGE_NAMESPACES": "/etc/distributary/namespaces.toml",
        "EDGE_LOG_FORMAT": "text",
        "TZ": "UTC",
    }
    assert not {"EDGE_MAX_CONNECTIONS", "EDGE_WORKERS", "EDGE_NAMESPACES"} & set(environment(render("trial"), "edge"))


def test_namespaces_are_where_the_edge_reads_them_and_roll_it_alone(render: Render, tmp_path: Path) -> None:
    file = tmp_path / "namespaces.toml"
    file.write_text('[default]\nmodes = ["conflate"]  # {{ .Values }} é\n', encoding="utf-8")
    before, after = render("trial"), render("trial", "--set-file", f"edge.namespaces={file}")
    assert only(after, "ConfigMap", "edge")["data"] == {"namespaces.toml": file.read_text(encoding="utf-8")}
    pod = pod_of(after, "edge")["spec"]
    (mount,) = [one for one in pod["containers"][0]["volumeMounts"] if one["name"] == "namespaces"]
    (volume,) = [one for one in pod["volumes"] if one["name"] == "namespaces"]
    assert volume["configMap"]["name"] == only(after, "ConfigMap", "edge")["metadata"]["name"]
    (item,) = volume["configMap"]["items"]
    assert f"{mount['mountPath']}/{item['path']}" == environment(after, "edge")["EDGE_NAMESPACES"]
    assert pod_of(before, "edge") != pod_of(after, "edge")
    other = render("trial", "--set", "edge.namespaces=# another")
    assert pod_of(other, "edge")["metadata"] != pod_of(after, "edge")["metadata"]
    assert pod_of(before, "bridge") == pod_of(after, "bridge")


def test_the_namespaces_of_the_examples_are_what_the_edge_takes(render: Render, tmp_path: Path) -> None:
    file = tmp_path / "namespaces.toml"
    file.write_text(only(render("full"), "ConfigMap", "edge")["data"]["namespaces.toml"], encoding="utf-8")
    assert load_policies(file).of("any").modes == (Mode.CONFLATE, Mode.QUEUE)


@pytest.mark.parametrize("values", VALUES)
def test_an_edge_has_time_to_drain(render: Render, values: str) -> None:
    manifests = render(values)
    spec = pod_of(manifests, "edge")["spec"]
    wait = spec["containers"][0].get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command", ["", "0"])[1]
    assert spec["terminationGracePeriodSeconds"] > int(wait) + int(environment(manifests, "edge")["EDGE_DRAIN_S"])


def test_urls_of_the_bus_are_in_a_secret_only(render: Render) -> None:
    manifests = render("own-bus")
    secret = only(manifests, "Secret", "bus")
    assert secret["stringData"]["bridge-url"].startswith("rediss://bridge:")
    assert secret["stringData"]["edge-url"].startswith("rediss://edge:")
    assert "rediss://" not in json.dumps([one for one in manifests if one is not secret])


def test_without_a_url_of_their_own_edges_use_the_bridges(render: Render) -> None:
    secret = only(render("own-bus", "--set", "bus.edgeUrl="), "Secret", "bus")
    assert secret["stringData"]["edge-url"] == secret["stringData"]["bridge-url"]


def test_a_changed_url_rolls_bridge_and_edge(render: Render) -> None:
    before, after = render("own-bus"), render("own-bus", "--set", "bus.url=redis://other:6380")
    assert pod_of(before, "bridge") != pod_of(after, "bridge")
    assert pod_of(before, "edge") != pod_of(after, "edge")


def rules_of(manifests: list[Manifest], folder: Path) -> Path:
    """The files that the chart itself puts where the bridge looks for its rules, in `folder`; the path of the rules among them."""
    for name, text in only(manifests, "ConfigMap", "bridge")["data"].items():
        (folder / name).write_text(text, encoding="utf-8")
    mounts = {one["name"]: one["mountPath"] for one in pod_of(manifests, "bridge")["spec"]["containers"][0]["volumeMounts"]}
    place = Path(environment(manifests, "bridge")["BRIDGE_RULES"])
    assert str(place.parent) == mounts["rules"]
    return folder / place.name


def sources_of_rules(manifests: list[Manifest]) -> list[Manifest]:
    """What the folder of the rules is put together from; one volume, so that a kubelet renews all of it at once."""
    (volume,) = [one for one in pod_of(manifests, "bridge")["spec"]["volumes"] if one["name"] == "rules"]
    return [one["configMap"] for one in volume["projected"]["sources"]]


def test_changed_rules_and_schemas_roll_nothing(render: Render, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text('# kept as it is: "{item.id}" {{ .Values }} é\nroutes: []\n', encoding="utf-8")
    schema = tmp_path / "order.avsc"
    schema.write_text('"string"\n', encoding="utf-8")
    new = ["--set-file", f"bridge.rules={rules}", "--set-file", f"bridge.schemas.order\\.avsc={schema}"]
    before, after = render("trial"), render("trial", *new)
    assert only(after, "ConfigMap", "bridge")["data"] == {"rules.yaml": rules.read_text(encoding="utf-8"), "order.avsc": '"string"\n'}
    for component in ("bridge", "edge", "redis"):
        assert pod_of(before, component) == pod_of(after, component)


@pytest.mark.parametrize("changed", ["bridge.rules=x", "bridge.schemas.a=x"])
def test_they_roll_the_bridge_alone_where_it_is_wanted(render: Render, changed: str) -> None:
    before, after = (render("trial", "--set", "bridge.rollOnRulesChange=true", *more) for more in ([], ["--set", changed]))
    assert pod_of(before, "bridge") != pod_of(after, "bridge")
    assert pod_of(before, "edge") == pod_of(after, "edge")
    assert pod_of(before, "redis") == pod_of(after, "redis")


@pytest.mark.parametrize("values", ["trial", "full"])
def test_the_rules_of_the_examples_are_what_the_bridge_takes(
    render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, values: str
) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "x")
    assert load_rules(rules_of(render(values), tmp_path)).routes


def test_a_renewed_schema_alone_is_taken_over(render: Render, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kubelet that renews the folder makes all of its files anew and turns one link: so the bridge reads its rules again."""
    monkeypatch.setenv("REGISTRY_PASSWORD", "x")
    for number in (1, 2):
        folder = tmp_path / f"..{number}"
        folder.mkdir()
        rules_of(render("full"), folder)
    schema = (tmp_path / "..2" / "order.avsc").read_text(encoding="utf-8")
    (tmp_path / "..2" / "order.avsc").write_text(schema.replace("long", "double"), encoding="utf-8")
    (tmp_path / "..data").symlink_to("..1")
    for name in ("rules.yaml", "order.avsc"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    file = RulesFile(tmp_path / "rules.yaml", wall_clock=lambda: 0.0)
    file.load()
    (tmp_path / "..data_tmp").symlink_to("..2")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    file.look()
    file.look()
    change = file.take()
    assert change is not None
    assert change.changed == ("orders",)


def test_rules_and_schemas_of_ones_own_lie_in_one_folder(render: Render) -> None:
    assert sources_of_rules(render("trial")) == [{"name": "x-distributary-bridge"}]
    assert sources_of_rules(render("own-bus")) == [{"name": "my-schemas"}, {"name": "my-rules"}]
    more = {"name": "money", "items": [{"key": "money.proto", "path": "common/money.proto"}]}
    assert sources_of_rules(render("full")) == [{"name": "x-delta-bridge"}, more]
    both = render("own-bus", "--set", "bridge.schemas.a=b")
    assert sources_of_rules(both) == [{"name": "x-distributary-bridge"}, {"name": "my-schemas"}, {"name": "my-rules"}]
    assert only(both, "ConfigMap", "bridge")["data"] == {"a": "b"}


def test_secrets_for_the_rules_come_by_the_bridges_environment(render: Render) -> None:
    (bridge,) = pod_of(render("full"), "bridge")["spec"]["containers"]
    assert bridge["envFrom"] == [{"secretRef": {"name": "live-registry"}}]
    (edge,) = pod_of(render("full"), "edge")["spec"]["containers"]
    assert "envFrom" not in edge


def test_a_registry_that_the_bridge_is_not_let_to_is_told(run: Callable[..., CompletedProcess[str]], helm: str, tmp_path: Path) -> None:
    chart = copytree(CHART, tmp_path / "chart")
    notes = (chart / "templates" / "NOTES.txt").rename(chart / "templates" / "_notes.tpl")
    notes.write_text(f'{{{{ define "notes" }}}}{notes.read_text(encoding="utf-8")}{{{{ end }}}}', encoding="utf-8")
    (chart / "templates" / "notes.yaml").write_text('notes: {{ include "notes" . | quote }}\n', encoding="utf-8")
    shown = [
        helm,
        "template",
        "x",
        chart,
        "--kube-version",
        "1.30.0",
        "-s",
        "templates/notes.yaml",
        "-f",
        CHART / "ci" / "full-values.yaml",
    ]
    closed, opened = (
        yaml.safe_load(run(*shown, *more).stdout)["notes"] for more in (["--set-json", "networkPolicy.bridgeExtraEgress=[]"], [])
    )
    warning = "WARNING: the rules name a schema registry"
    assert warning in closed
    assert warning not in opened
    assert "4. Change the rules: the bridge's pods roll." in opened


def test_properties_beside_a_secret_are_options_and_in_no_secret(render: Render) -> None:
    manifests = render("own-bus")
    (bridge,) = pod_of(manifests, "bridge")["spec"]["containers"]
    assert bridge["args"] == ["run", "--kafka-property=fetch.max.bytes=52428800", "--kafka-property=security.protocol=SASL_SSL"]
    assert environment(manifests, "bridge")["BRIDGE_KAFKA_PROPERTIES"] == "/etc/distributary-kafka/kafka.properties"
    assert find(manifests, "Secret", "bridge") == []
    assert pod_of(render("full"), "bridge")["spec"]["containers"][0]["args"] == ["run"]


def test_kafka_properties_are_written_as_librdkafka_reads_them(render: Render) -> None:
    secret = only(render("full"), "Secret", "bridge")
    assert secret["stringData"]["kafka.properties"].splitlines() == [
        "enable.ssl.certificate.verification=true",
        "fetch.max.bytes=52428800",
        "sasl.mechanism=SCRAM-SHA-512",
        "security.protocol=SASL_SSL",
    ]


def test_objects_of_ones_own_are_mounted(render: Render) -> None:
    manifests = render("own-bus")
    volumes = {one["name"]: one for one in pod_of(manifests, "bridge")["spec"]["volumes"]}
    assert volumes["kafka-properties"]["secret"]["secretName"] == "my-kafka"
    assert {one["name"]: one for one in pod_of(manifests, "edge")["spec"]["volumes"]}["namespaces"]["configMap"]["name"] == "my-namespaces"
    assert find(manifests, "ConfigMap", "edge") == []
    assert find(manifests, "ConfigMap", "bridge") == find(manifests, "Secret", "bridge") == []
    users = {one["name"]: one for one in pod_of(render("plain"), "redis")["spec"]["volumes"]}["users"]
    assert users["secret"]["secretName"] == "my-users"
    assert find(render("plain"), "Secret", "bus") == []


def test_an_autoscaled_edge_has_no_fixed_number(render: Render) -> None:
    manifests = render("full")
    assert "replicas" not in only(manifests, "Deployment", "edge")["spec"]
    scaler = only(manifests, "HorizontalPodAutoscaler", "edge")["spec"]
    assert scaler["scaleTargetRef"]["name"] == only(manifests, "Deployment", "edge")["metadata"]["name"]


@pytest.mark.parametrize("release", ["y", "on", "null", "e1"])
def test_a_release_may_have_a_name_that_yaml_takes_for_something_else(render: Render, release: str) -> None:
    for one in render("trial", release=release):
        assert one["metadata"]["labels"]["app.kubernetes.io/instance"] == release


def test_names_stay_within_the_limit(render: Render) -> None:
    names = [one["metadata"]["name"] for one in render("trial", release="a" * 53)]
    assert len({name for name in names if name.endswith("-internal")}) == 2
    assert max(map(len, names)) <= 63


def test_the_manual_shows_the_users_as_they_are(render: Render) -> None:
    users = only(render("trial"), "Secret", "bus")["stringData"]["users.acl"]
    manual = (CHART.parents[1] / "docs" / "operations.md").read_text(encoding="utf-8")
    for line in re.sub(r" >\w+ ", " >PASSWORD ", users).splitlines():
        assert f"    {line}\n" in manual


def test_every_value_is_explained_by_its_default() -> None:
    """A value that only the schema knows would be one that nobody finds."""
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    values = yaml.safe_load((CHART / "values.yaml").read_text(encoding="utf-8"))

    def compare(path: str, node: Manifest, value: object) -> None:
        node = schema["definitions"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node
        if isinstance(value, dict) and value and node.get("additionalProperties") is False:
            unknown = set(node["properties"]) ^ set(value) - {"global"}
            assert unknown - {"global", "claims"} == set(), path
            for name, child in value.items():
                compare(f"{path}.{name}", node["properties"][name], child)

    compare("", schema, values)
