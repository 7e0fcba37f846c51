"""The Job that checks the rules before Helm changes anything: it sees what the bridges will see, and nothing has to be there before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from bridge.cli import main

Manifest = dict[str, Any]
Render = Callable[..., list[Manifest]]

ANNOTATIONS = {"helm.sh/hook": "pre-install,pre-upgrade", "helm.sh/hook-delete-policy": "before-hook-creation,hook-succeeded"}


def the(manifests: list[Manifest], kind: str, suffix: str) -> Manifest:
    """The one object of a kind whose name ends so."""
    (found,) = [one for one in manifests if one["kind"] == kind and one["metadata"]["name"].endswith(suffix)]
    return found


def pod_of(manifests: list[Manifest], kind: str, suffix: str) -> Manifest:
    """The pod's spec within a Deployment or a Job."""
    spec: Manifest = the(manifests, kind, suffix)["spec"]["template"]["spec"]
    return spec


def named(items: list[Manifest], names: set[str]) -> list[Manifest]:
    """The items with one of these names."""
    return [one for one in items if one["name"] in names]


@pytest.mark.parametrize("values", ["full", "own-bus", "trial"])
def test_it_has_the_image_the_files_and_the_environment_of_the_bridges(render: Render, values: str) -> None:
    manifests = render(values)
    bridge, check = pod_of(manifests, "Deployment", "-bridge"), pod_of(manifests, "Job", "-check-rules")
    (theirs,), (mine,) = bridge["containers"], check["containers"]
    for same in ("image", "imagePullPolicy", "envFrom", "securityContext"):
        assert mine.get(same) == theirs.get(same), same
    own = {one["name"] for one in theirs["env"] if one["name"].startswith("BRIDGE_")}
    assert mine.get("env", []) == [one for one in theirs["env"] if one["name"] not in own]
    for same in ("imagePullSecrets", "securityContext", "nodeSelector", "tolerations", "affinity"):
        assert check.get(same) == bridge.get(same), same
    assert mine["volumeMounts"] == [one for one in theirs["volumeMounts"] if one["name"] != "kafka-properties"]
    (theirs_at,), (mine_at,) = (named(pod["volumes"], {"rules"}) for pod in (bridge, check))
    renamed = str(theirs_at).replace(the(manifests, "Deployment", "-bridge")["metadata"]["name"] + "'", "check-rules'")
    assert str(mine_at).replace(the(manifests, "Job", "-check-rules")["metadata"]["name"] + "'", "check-rules'") == renamed
    assert [one for one in check["volumes"] if one["name"] != "rules"] == [
        one for one in bridge["volumes"] if one["name"] not in {"rules", "kafka-properties"}
    ]


@pytest.mark.parametrize("values", ["full", "trial"])
def test_its_files_are_those_that_the_bridges_will_get(render: Render, values: str) -> None:
    manifests = render(values)
    assert the(manifests, "ConfigMap", "-check-rules")["data"] == the(manifests, "ConfigMap", "-bridge")["data"]


def test_a_rules_file_arrives_as_it_is(render: Render, tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    rules.write_text('# "{item.id}" {{ .Values }} é\nroutes: []\n', encoding="utf-8")
    manifests = render("trial", "--set-file", f"bridge.rules={rules}")
    for suffix in ("-check-rules", "-bridge"):
        assert the(manifests, "ConfigMap", suffix)["data"] == {"rules.yaml": rules.read_text(encoding="utf-8")}


def test_it_runs_before_all_else_and_its_files_are_there_first(render: Render) -> None:
    manifests = render("trial")
    files, job = (the(manifests, kind, "-check-rules")["metadata"]["annotations"] for kind in ("ConfigMap", "Job"))
    assert files | ANNOTATIONS == files
    assert job | ANNOTATIONS == job
    assert int(files["helm.sh/hook-weight"]) < int(job["helm.sh/hook-weight"])


@pytest.mark.parametrize("values", ["full", "own-bus", "trial", "plain"])
def test_it_needs_no_object_that_comes_after_it(render: Render, values: str) -> None:
    manifests = render(values)
    hooks = [one for one in manifests if "helm.sh/hook" in one["metadata"].get("annotations", {})]
    later = {(one["kind"], one["metadata"]["name"]) for one in manifests if one not in hooks}
    check = pod_of(manifests, "Job", "-check-rules")
    assert ("ServiceAccount", check["serviceAccountName"]) not in later
    wanted = [
        ("ConfigMap", source["configMap"]["name"])
        for volume in check["volumes"]
        for source in volume.get("projected", {}).get("sources", [])
    ]
    assert wanted
    assert not later & set(wanted)


def test_only_an_account_of_ones_own_is_used(render: Render) -> None:
    own = ["--set", "bridge.serviceAccount.create=false", "--set", "bridge.serviceAccount.name=mine"]
    assert pod_of(render("trial", *own), "Job", "-check-rules")["serviceAccountName"] == "mine"


def test_rules_with_problems_are_not_tried_again(render: Render) -> None:
    spec = the(render("trial"), "Job", "-check-rules")["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"
    assert {"containerName": container["name"], "operator": "In", "values": [1, 2]} in [
        one.get("onExitCodes") for one in spec["podFailurePolicy"]["rules"] if one["action"] == "FailJob"
    ]


@pytest.mark.parametrize(("rules", "status"), [(None, 0), ("version: 1\nrouts: []\n", 1)])
def test_its_command_is_one_that_the_bridge_has(render: Render, tmp_path: Path, rules: str | None, status: int) -> None:
    manifests = render("trial")
    (container,) = pod_of(manifests, "Job", "-check-rules")["containers"]
    file = tmp_path / "rules.yaml"
    file.write_text(rules or the(manifests, "ConfigMap", "-check-rules")["data"]["rules.yaml"], encoding="utf-8")
    (folder,) = [one["mountPath"] for one in container["volumeMounts"] if one["name"] == "rules"]
    done = CliRunner().invoke(main, [part.replace(folder, str(tmp_path)) for part in container["args"]])
    assert done.exit_code == status, done.output
    assert ("routs" in done.output) is (status == 1)


def test_it_reaches_nobody(render: Render) -> None:
    manifests = render("trial")
    policy = the(manifests, "NetworkPolicy", "-check-rules")["spec"]
    assert policy["ingress"] == policy["egress"] == []
    assert (
        policy["podSelector"]["matchLabels"].items()
        <= the(manifests, "Job", "-check-rules")["spec"]["template"]["metadata"]["labels"].items()
    )


def test_a_mesh_can_be_kept_out_of_it(render: Render) -> None:
    mesh = ["--set", "bridge.podLabels.mesh=on", "--set", "bridge.checkRules.podLabels.mesh=off"]
    mesh += ["--set-string", "bridge.checkRules.podAnnotations.sidecar\\.istio\\.io/inject=false"]
    pod = the(render("trial", *mesh), "Job", "-check-rules")["spec"]["template"]["metadata"]
    assert pod["labels"]["mesh"] == "off"
    assert pod["annotations"] == {"sidecar.istio.io/inject": "false"}


def test_it_can_be_switched_off(render: Render) -> None:
    manifests = render("trial", "--set", "bridge.checkRules.enabled=false")
    assert [one["metadata"]["name"] for one in manifests if one["metadata"]["name"].endswith("-check-rules")] == []
