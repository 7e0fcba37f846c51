"""The chart on a real API server, in namespaces of its own that it deletes again. Any cluster will do; without KUBECONFIG nothing runs.

Only where the cluster has the project's images as well (IMAGES_ARE_THERE=1) do pods have to run.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.rig.wait import wait_until

CHART = Path(__file__).resolve().parents[2] / "helm" / "distributary"
VALUES = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*-values.yaml"))
KINDS = "deployment,replicaset,pod,job,service,serviceaccount,configmap,secret,ingress,networkpolicy,pdb,hpa"
# No load balancer is ordered for a test.
QUIET = ("--set", "edge.service.type=NodePort")
BAD_RULES = "version: 1\nrouts: []\n"

Manifest = dict[str, Any]
Done = subprocess.CompletedProcess[str]


class Space:
    """A namespace that admits restricted pods only, and a release `x` in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def kubectl(self, *arguments: str | Path, stdin: str | None = None) -> Done:
        """Run kubectl in this namespace."""
        return _run("kubectl", "--namespace", self.name, *arguments, stdin=stdin)

    def helm(self, command: str, *arguments: str | Path) -> Done:
        """Run a command of helm on the release."""
        return _run("helm", command, "x", "--namespace", self.name, *arguments)

    def put(self, command: str, values: str, *more: str | Path) -> None:
        """Install or upgrade with the values of ci/; without its hooks, and without waiting for pods."""
        done = self.helm(command, CHART, "-f", _file(values), "--no-hooks", *QUIET, *more)
        assert done.returncode == 0, done.stderr

    def objects(self) -> list[str]:
        """KIND/NAME of all that belongs to the release."""
        found = self.kubectl("get", KINDS, "-l", "app.kubernetes.io/instance=x", "-o", "name")
        assert found.returncode == 0, found.stderr
        return found.stdout.split()


@pytest.fixture
def space(helm: str) -> Iterator[Space]:
    """A fresh namespace."""
    if not os.environ.get("KUBECONFIG"):
        pytest.skip("no cluster: KUBECONFIG names none; it may be any in which namespaces can be made and deleted")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is missing")
    assert helm
    own = Space(f"distributary-test-{uuid.uuid4().hex[:8]}")
    try:
        for arguments in (
            ("create", "namespace", own.name),
            ("label", "namespace", own.name, "pod-security.kubernetes.io/enforce=restricted", "pod-security.kubernetes.io/warn=restricted"),
        ):
            done = own.kubectl(*arguments)
            assert done.returncode == 0, done.stderr
        wait_until(lambda: own.kubectl("get", "serviceaccount", "default").returncode == 0, what="the namespace's account")
        yield own
    finally:
        own.kubectl("delete", "namespace", own.name, "--wait=false", "--ignore-not-found")


@pytest.fixture
def images(space: Space) -> None:
    """The nodes can run the images that the values of ci/trial name."""
    assert space.name
    if os.environ.get("IMAGES_ARE_THERE") != "1":
        pytest.skip("IMAGES_ARE_THERE=1 says that the cluster has the images distributary-bridge, distributary-edge and redis")


def _run(*command: str | Path, stdin: str | None = None) -> Done:
    return subprocess.run([str(part) for part in command], input=stdin, capture_output=True, text=True, timeout=280, check=False)


def _file(values: str) -> Path:
    return CHART / "ci" / f"{values}-values.yaml"


def _with_the_default_account(manifest: Manifest) -> Manifest:
    """A dry run makes no accounts, and a bare pod is refused without its own."""
    if manifest["kind"] == "Pod":
        manifest["spec"]["serviceAccountName"] = "default"
    return manifest


@pytest.mark.parametrize("values", VALUES)
def test_the_server_takes_every_object_and_warns_of_none(space: Space, values: str) -> None:
    made = space.helm("template", CHART, "-f", _file(values), "--validate", *QUIET)
    assert made.returncode == 0, made.stderr
    manifests = [_with_the_default_account(one) for one in yaml.safe_load_all(made.stdout) if one]
    taken = space.kubectl("apply", "--dry-run=server", "--validate=strict", "-o", "name", "-f", "-", stdin=yaml.safe_dump_all(manifests))
    assert taken.returncode == 0, taken.stderr
    assert taken.stderr == ""
    assert len(taken.stdout.split()) == len(manifests)


def test_any_values_can_follow_any_others_and_all_of_it_goes_again(space: Space) -> None:
    space.put("install", "trial")
    for values in ("own-bus", "full", "trial", "plain", "own-bus"):
        space.put("upgrade", values)
        there = space.kubectl("get", "-o", "name", "-f", "-", stdin=_manifest(space))
        assert there.returncode == 0, there.stderr
    assert space.helm("rollback", "1", "--no-hooks").returncode == 0
    assert "deployment.apps/x-distributary-redis" in space.objects()
    gone = space.helm("uninstall", "--no-hooks")
    assert gone.returncode == 0, gone.stderr
    wait_until(lambda: space.objects() == [], what="nothing left", timeout_s=180, state=space.objects)


def _manifest(space: Space) -> str:
    done = _run("helm", "get", "manifest", "x", "--namespace", space.name)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_trials_passwords_stay(space: Space) -> None:
    def passwords() -> str:
        return space.kubectl("get", "secret", "x-distributary-bus", "-o", "jsonpath={.data}").stdout

    space.put("install", "trial")
    before = passwords()
    space.put("upgrade", "trial", "--set", "bridge.workers=2")
    assert "bridge-password" in before
    assert passwords() == before


def test_changed_rules_reach_the_config_map_and_roll_only_where_it_is_wanted(space: Space) -> None:
    def generation() -> str:
        return space.kubectl("get", "deployment", "x-distributary-bridge", "-o", "jsonpath={.metadata.generation}").stdout

    def rules() -> str:
        return space.kubectl("get", "configmap", "x-distributary-bridge", "-o", r"jsonpath={.data.rules\.yaml}").stdout

    space.put("install", "trial")
    first = generation()
    space.put("upgrade", "trial", "--set", "bridge.rules=# one")
    assert (rules(), generation()) == ("# one", first)
    space.put("upgrade", "trial", "--set", "bridge.rules=# one", "--set", "bridge.rollOnRulesChange=true")
    second = generation()
    space.put("upgrade", "trial", "--set", "bridge.rules=# two", "--set", "bridge.rollOnRulesChange=true")
    assert rules() == "# two"
    assert len({first, second, generation()}) == 3


@pytest.mark.usefixtures("images")
def test_rules_that_a_bridge_would_refuse_stop_helm_before_it_changes_anything(space: Space, tmp_path: Path) -> None:
    bad = tmp_path / "rules.yaml"
    bad.write_text(BAD_RULES, encoding="utf-8")
    refused = space.helm("install", CHART, "-f", _file("trial"), "--set-file", f"bridge.rules={bad}")
    _assert_refused(space, refused)
    assert [one for one in space.objects() if "check-rules" not in one] == []
    installed = space.helm("upgrade", CHART, "-f", _file("trial"))
    assert installed.returncode == 0, installed.stderr
    assert [one for one in space.objects() if one.startswith(("job", "pod")) and "check-rules" in one] == []
    before = _rules_and_pods(space)
    refused = space.helm("upgrade", CHART, "-f", _file("trial"), "--set", "bridge.workers=2", "--set-file", f"bridge.rules={bad}")
    _assert_refused(space, refused)
    assert _rules_and_pods(space) == before


@pytest.mark.usefixtures("images")
def test_what_the_rules_need_from_secrets_and_schemas_is_checked_with_them(space: Space) -> None:
    made = space.kubectl("create", "secret", "generic", "live-registry", "--from-literal=REGISTRY_PASSWORD=x")
    assert made.returncode == 0, made.stderr
    rules = yaml.safe_load(_file("full").read_text(encoding="utf-8"))["bridge"]
    values = yaml.safe_dump({"bridge": {name: rules[name] for name in ("rules", "schemas", "extraEnvFrom")}})
    install = ("upgrade", "--install", "x", CHART, "--namespace", space.name, "-f", _file("trial"), "-f", "-")
    for without, told in (("extraEnvFrom=null", "REGISTRY_PASSWORD"), ("schemas=null", "order.avsc")):
        done = _run("helm", *install, "--set", f"bridge.{without}", stdin=values)
        assert done.returncode != 0
        assert told in done.stdout + done.stderr + _log(space)
    done = _run("helm", *install, stdin=values)
    assert done.returncode == 0, done.stderr + _log(space)


@pytest.mark.usefixtures("images")
def test_edges_get_ready_and_helm_test_says_so(space: Space) -> None:
    done = space.helm("install", CHART, "-f", _file("trial"))
    assert done.returncode == 0, done.stderr
    rolled = space.kubectl("rollout", "status", "deployment/x-distributary-edge", "--timeout=180s")
    assert rolled.returncode == 0, rolled.stdout + rolled.stderr
    tested = space.helm("test", "--logs")
    assert tested.returncode == 0, tested.stdout + tested.stderr
    assert "2 edge(s) ready" in tested.stdout


def _log(space: Space) -> str:
    """What the Job said; helm shows it itself from 3.18 on."""
    return space.kubectl("logs", "job/x-distributary-check-rules").stdout


def _assert_refused(space: Space, done: Done) -> None:
    assert done.returncode != 0
    assert "x-distributary-check-rules" in done.stderr
    assert 'did you mean "routes"?' in done.stdout + done.stderr + _log(space)


def _rules_and_pods(space: Space) -> list[str]:
    return [
        space.kubectl("get", kind, "x-distributary-bridge", "-o", f"jsonpath={{{path}}}").stdout
        for kind, path in (("configmap", ".data"), ("deployment", ".spec"))
    ]
