"""Every file of deploy/, Dockerfile and compose.yaml: what can be checked without the system that they are for."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cloud.settings import Settings as CloudSettings
from common.config import load
from common.manifestfiles import load_files
from edge.settings import Settings as EdgeSettings
from tests.stack.samples import DIRECTORY, samples

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
HARDENING = {
    "NoNewPrivileges": "yes", "CapabilityBoundingSet": "", "ProtectSystem": "strict", "ProtectHome": "yes",
    "PrivateTmp": "yes", "PrivateDevices": "yes", "RestrictNamespaces": "yes", "UMask": "0077",
}  # fmt: skip
EXPOSURE_MAX = 3.0  # of systemd-analyze security, which calls this OK; a service without any of it has 9.6
SECRET_NAMES = re.compile(r"password|secret|token|key", re.IGNORECASE)
CHECKED = {"kubernetes", "systemd", "mosquitto", "nats", "airgap", "compose", "crds"}


def documents() -> list[dict[str, Any]]:
    """All manifests of deploy/kubernetes."""
    files = sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    return [each for file in files for each in yaml.safe_load_all(file.read_text()) if each]


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and pod spec of each workload."""
    for each in documents():
        if "template" in each.get("spec", {}):
            yield each["metadata"]["name"], each["spec"]["template"]["spec"]


def services() -> dict[str, dict[str, Any]]:
    """The services of compose.yaml."""
    return dict(yaml.safe_load((ROOT / "compose.yaml").read_text())["services"])


def test_nothing_in_deploy_is_unchecked() -> None:
    """A directory that is added to deploy/ needs its test here, or in a place that this list names."""
    assert {each.name for each in DEPLOY.iterdir() if each.is_dir()} <= CHECKED


# -- Kubernetes --------------------------------------------------------------------------------------------------------


def test_pods_run_with_little() -> None:
    """R4: not root, read-only root file system, no capability; a token of the cluster only for controllers."""
    found = dict(pods())
    assert {name.rstrip("-12") for name in found} == {"fieldpost-cloud", "fieldpost-edge"}
    for name, pod in found.items():
        assert pod["securityContext"]["runAsNonRoot"], name
        assert pod["automountServiceAccountToken"] is name.startswith("fieldpost-cloud"), name
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context["readOnlyRootFilesystem"], name
            assert not context["allowPrivilegeEscalation"], name
            assert context["capabilities"] == {"drop": ["ALL"]}, name
            assert container["resources"]["limits"]["memory"], name


def test_references_in_the_manifests_hold() -> None:
    """What a pod mounts is a volume of it; accounts, configuration and selectors fit; probes run what there is."""
    known = {(each["kind"], each["metadata"]["name"]) for each in documents()}
    for each in documents():
        assert each["apiVersion"], each
        if "template" in each.get("spec", {}):
            labels = each["spec"]["template"]["metadata"]["labels"]
            assert each["spec"]["selector"]["matchLabels"].items() <= labels.items()
    for name, pod in pods():
        assert {mount["name"] for one in pod["containers"] for mount in one["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }, name
        assert ("ServiceAccount", pod.get("serviceAccountName", "")) in known or name == "fieldpost-edge"
        for container in pod["containers"]:
            assert all(("ConfigMap", each["configMapRef"]["name"]) in known for each in container.get("envFrom", []))
            assert container["livenessProbe"]["exec"]["command"][:3] == ["python", "-m", "common.health"]


def test_controllers_may_only_read_rules_and_write_their_status() -> None:
    """R4: RBAC for the rule objects only."""
    (role,) = [each for each in documents() if each["kind"] == "ClusterRole"]
    assert {group for rule in role["rules"] for group in rule["apiGroups"]} == {"rules.kubeedge.io"}
    verbs = {name: set(rule["verbs"]) for rule in role["rules"] for name in rule["resources"]}
    assert verbs["rules"] == verbs["ruleendpoints"] == {"get", "list", "watch"}
    assert verbs["rules/status"] == {"get", "patch", "update"}
    (binding,) = [each for each in documents() if each["kind"] == "ClusterRoleBinding"]
    assert [each["name"] for each in binding["subjects"]] == ["fieldpost-cloud"]


def test_no_manifest_holds_a_secret() -> None:
    """R4: Secrets by reference: none is made here, and no variable that could be one has a value."""
    assert all(each["kind"] != "Secret" for each in documents())
    for _, pod in pods():
        for variable in (each for container in pod["containers"] for each in container.get("env", [])):
            assert "value" not in variable or not SECRET_NAMES.search(variable["name"])


def test_settings_of_the_manifests_are_taken() -> None:
    """The variables of pods and services are settings that cloud and edge know."""
    named = [each["data"] for each in documents() if each["kind"] == "ConfigMap"]
    named += [each["environment"] for name, each in services().items() if name.startswith(("cloud", "gw"))]
    for variables in named:
        settings = {key: value for key, value in variables.items() if key.startswith("FIELDPOST__")}
        load(CloudSettings, file="", environ=settings, overrides={})
        load(EdgeSettings, file="", environ=settings, overrides={})


# -- systemd -----------------------------------------------------------------------------------------------------------


def _unit(file: Path) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(file)
    return parser


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_units_are_hardened(file: Path) -> None:
    """Each unit has a user of its own and every line of the hardening; wrong settings are not tried again."""
    service = _unit(file)["Service"]
    assert service["User"] not in ("", "root")
    assert {name: service[name] for name in HARDENING} == HARDENING
    assert file.name == "nats.service" or service["RestartPreventExitStatus"] == "2"


@pytest.mark.parametrize("file", UNITS, ids=lambda file: file.name)
def test_units_are_taken_by_systemd(file: Path, tmp_path: Path) -> None:
    """systemd-analyze finds nothing wrong with the unit, and calls its exposure OK."""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd-analyze is not installed: apt-get install systemd")
    unit = tmp_path / file.name
    program = shutil.which("true")
    unit.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={program}", file.read_text()))  # it need not be installed here
    done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    found = [line for line in done.stderr.splitlines() if file.name in line]
    assert (found, "Unknown" in done.stderr) == ([], False), done.stderr
    said = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", str(unit)], capture_output=True, text=True
    )
    if said.returncode and "offline" in said.stderr:
        pytest.skip("this systemd-analyze judges no unit files")
    exposure = re.search(r"Overall exposure level[^:]*: ([0-9.]+)", said.stdout)
    assert exposure is not None, said.stdout + said.stderr
    assert float(exposure[1]) <= EXPOSURE_MAX, said.stdout


# -- Mosquitto, images, compose ----------------------------------------------------------------------------------------


def test_samples_for_mosquitto_are_what_the_code_makes() -> None:
    """deploy/mosquitto shows the files of ``fieldpost broker``; python -m tests.stack.samples writes them."""
    for name, text in samples().items():
        assert (DIRECTORY / name).read_text() == text


def test_services_may_do_little() -> None:
    """U7, R4: each service is read-only, without capabilities, and not root but for what prepares the volumes."""
    for name, service in services().items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["user"] == ("0:0" if name == "volumes" else "10001:10001"), name
        assert "healthcheck" in service, name
        assert all("${FIELDPOST_BIND:-127.0.0.1}:" in port for port in service.get("ports", [])), name


def test_images_are_pinned_and_can_be_replaced() -> None:
    """U7: every image is a variable with a default of an exact version."""
    texts = {str(service["image"]) for service in services().values()}
    texts.add(str(services()["volumes"]["build"]["args"]["BASE_IMAGE"]))
    for text in texts:
        assert re.fullmatch(r"\$\{[A-Z_]+:-[a-z/-]+:(local|\d+\.\d+[\w.-]*)\}", text), text
    argument = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert argument is not None
    assert any(text.endswith(f":-{argument[1]}}}") for text in texts)


def test_compose_holds_no_secret() -> None:
    """R4: no variable of a service is a secret; what has such a name is the path of a file."""
    for name, service in services().items():
        for key, value in service.get("environment", {}).items():
            assert not SECRET_NAMES.search(key) or key.endswith("_FILE"), name
            assert "://" not in value or "@" not in value or ":" not in value.partition("://")[2].partition("@")[0]


def test_volumes_are_prepared_for_the_first_start() -> None:
    """Every directory that the first start writes is given to its user before, and no client sees another's."""
    prepared = set(services()["volumes"]["command"])
    for mount in services()["first-start"]["volumes"]:
        assert mount.startswith("./") or mount.partition(":")[2] in prepared
    for name in ("cloud-1", "cloud-2", "gw-1", "gw-2", "gw-1-machine", "gw-2-machine"):
        mounted = [mount.partition(":")[0] for mount in services()[name]["volumes"] if ":/etc/fieldpost" in mount]
        assert mounted == [f"{name}-files"]


def test_rules_of_the_stack_are_taken() -> None:
    """The manifests of the two agents pass the check of the agent."""
    for node in ("gw-1", "gw-2"):
        manifests, findings = load_files([str(DEPLOY / "compose" / f"{node}.yaml")])
        assert (len(manifests) >= 2, findings) == (True, [])


@pytest.mark.parametrize("file", [*DEPLOY.rglob("*.sh"), ROOT / ".ci" / "run", ROOT / ".ci" / "containers"],
                         ids=lambda file: file.name)  # fmt: skip
def test_scripts_can_be_read(file: Path) -> None:
    """The shell takes the script's syntax."""
    shell = "bash" if "bash" in file.read_text().splitlines()[0] else "sh"
    done = subprocess.run([shell, "-n", str(file)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_image_is_built_from_what_it_needs() -> None:
    """Dockerfile: not root, a health check, no address of a package index; and .dockerignore lets in what it copies."""
    text = (ROOT / "Dockerfile").read_text()
    assert re.findall(r"^USER (.+)$", text, re.MULTILINE)[-1] == "10001:10001"
    assert "HEALTHCHECK" in text
    assert not re.search(r"https?://", text)
    copied = {name for line in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE) for name in line.split()}
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == allowed
