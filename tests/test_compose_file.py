"""The compose file and its kin in examples/deploy: what they promise without an engine.

`make compose-smoke` brings the file up.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from consumers.cli import cli as consumers_cli
from consumers.serving import RELEASE_S
from dispatcher.cli import cli as dispatcher_cli

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "examples" / "deploy"
TEXT = (ROOT / "docker-compose.yml").read_text()
VARIABLE = re.compile(r"(?<!\$)\$\{([A-Z0-9_]+):-([^}]*)\}")
# What is between the end of the release and the kill: Python's own end, the engine's delay.
MARGIN_S = 5


def interpolated(text: str) -> str:
    """The text with the defaults in the place of variables, as Compose reads it without .env."""
    return VARIABLE.sub(r"\2", text).replace("$$", "$")


def unquoted(text: str) -> str:
    # Compose makes numbers of what was a string before it was interpolated.
    return re.sub(r'replicas: "(\d+)"', r"replicas: \1", text)


FILE: dict[str, Any] = yaml.safe_load(unquoted(interpolated(TEXT)))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = sorted(set(SERVICES) - {"redis"})
LASTING = sorted(set(SERVICES) - {"cli"})
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))
PODS = {
    each["metadata"]["name"]: each["spec"]["template"]["spec"]
    for each in MANIFESTS
    if each["kind"] in ("Deployment", "StatefulSet")
}


def seconds(text: str) -> int:
    found = re.fullmatch(r"(\d+)s", text)
    assert found, text
    return int(found[1])


def option(command: list[str], name: str) -> str:
    (value,) = (word.partition("=")[2] for word in command if word.startswith(f"--{name}="))
    return value


def takes(group: click.Command, words: list[str]) -> bool:
    """Whether a command line has such commands and options."""
    context = click.Context(group)
    while isinstance(group, click.Group) and words and not words[0].startswith("-"):
        found = group.get_command(context, words[0])
        if found is None:
            return False
        group, words, context = found, words[1:], click.Context(found, parent=context)
    known = {name for each in group.get_params(context) for name in each.opts}
    return all(word.partition("=")[0] in known for word in words if word.startswith("-"))


# --- The compose file


def complaints(file: dict[str, Any]) -> list[str]:
    """What docker-compose 1.29 would say against a file."""
    schema = json.loads((ROOT / "tests/compose/compose-1.29.2.schema.json").read_text())
    return [error.json_path for error in jsonschema.Draft7Validator(schema).iter_errors(file)]


def test_the_file_holds_to_the_schema_of_docker_compose_1_29():
    assert complaints(FILE) == []


def test_what_docker_compose_1_29_does_not_know_is_seen():
    changed = {**SERVICES["worker"], "develop": {"watch": []}}

    assert complaints({**FILE, "services": {"worker": changed}}) == ["$.services.worker"]


def test_the_file_names_no_version_so_that_both_composes_take_it_for_the_specification():
    assert "version" not in FILE


def test_the_example_of_env_has_every_variable_of_the_file_with_the_value_that_holds_without_it():
    rows = (ROOT / ".env.example").read_text().splitlines()
    example = dict(row.split("=", 1) for row in rows if row and not row.startswith("#"))

    assert example == dict(VARIABLE.findall(TEXT))


def test_no_variable_has_two_defaults():
    assert len(set(VARIABLE.findall(TEXT))) == len(dict(VARIABLE.findall(TEXT)))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_service_runs_as_root_or_can_write_to_its_root_file_system(name):
    service = SERVICES[name]

    assert service["user"] in ("10001:10001", "redis")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.partition(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


@pytest.mark.parametrize("name", OURS)
def test_a_service_is_told_where_redis_is_by_a_file_alone(name):
    service = SERVICES[name]

    expected = {
        "DISPATCHER_REDIS_URL_FILE": "/run/secrets/redis_url",
        "DISPATCHER_LOG_LEVEL": "info",
    }
    assert service["environment"].items() >= expected.items()
    assert "redis_url" in service["secrets"]
    assert "redis://" not in str(service)


def test_http_asks_for_a_token_that_is_a_file():
    service = SERVICES["dispatcher"]

    assert service["environment"]["DISPATCHER_API_TOKEN_FILE"] == "/run/secrets/http_token"
    assert service["secrets"] == ["redis_url", "http_token"]
    assert FILE["secrets"]["http_token"] == {"file": "./secrets/http_token"}
    assert not {"DISPATCHER_API_TOKEN", "DISPATCHER_HTTP_WITHOUT_AUTH"} & set(
        service["environment"]
    )


def test_redis_keeps_what_it_was_given_and_never_evicts():
    command = " ".join(SERVICES["redis"]["command"][-1].split())

    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis"]["volumes"] == ["redis-data:/data"]


def test_only_http_is_published_and_to_this_machine_alone_a_port_for_each_dispatcher():
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each}
    (port,) = published.pop("dispatcher")
    address, first, last, inner = re.fullmatch(r"([\d.]+):(\d+)-(\d+):(\d+)", port).groups()

    assert published == {}
    assert address == "127.0.0.1"
    assert int(last) - int(first) + 1 == SERVICES["dispatcher"]["deploy"]["replicas"]
    assert SERVICES["dispatcher"]["environment"]["DISPATCHER_HTTP"] == f"0.0.0.0:{inner}"


@pytest.mark.parametrize("name", LASTING)
def test_every_lasting_service_comes_back_and_has_a_health_check(name):
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")


@pytest.mark.parametrize("name", ["worker", "rq-consumer"])
def test_a_worker_is_killed_only_after_its_grace_and_its_release(name):
    service = SERVICES[name]
    grace_s = int(option(service["command"], "grace"))

    assert seconds(service["stop_grace_period"]) >= grace_s + RELEASE_S + MARGIN_S


def test_there_are_two_dispatchers():
    assert SERVICES["dispatcher"]["deploy"] == {"replicas": 2}


def test_without_a_profile_only_redis_dispatchers_and_workers_come_up():
    plain = {name for name, service in SERVICES.items() if "profiles" not in service}

    assert plain == {"redis", "dispatcher", "worker"}


@pytest.mark.parametrize("name", OURS)
def test_the_command_lines_have_the_commands_and_options_of_the_file(name):
    service = SERVICES[name]
    lines = [service.get("entrypoint", []) + service["command"]]
    lines.append(service.get("healthcheck", {"test": []})["test"][1:])
    groups = {"dispatcher": dispatcher_cli, "consumers": consumers_cli}
    ours = [
        line for line in lines if line and line[0] in groups and line != ["dispatcher", "--help"]
    ]

    assert [line for line in ours if not takes(groups[line[0]], line[1:])] == []


@pytest.mark.parametrize("line", ["rum", "run --pol=x", "check --grace=3"])
def test_a_command_or_option_that_does_not_exist_is_seen(line):
    assert not takes(consumers_cli, line.split())


def test_the_stand_ins_have_the_names_of_the_images_that_the_files_take():
    (python,) = re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.M)
    made = (ROOT / "tests/compose/stand_ins.sh").read_text()

    for image in (python, SERVICES["redis"]["image"]):
        assert re.search(rf"\s{re.escape(image)}$", made, re.M), image


def test_the_python_of_the_image_is_one_that_the_package_takes():
    (version,) = re.findall(r"=python:3\.(\d+)", (ROOT / "Dockerfile").read_text())
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    assert project["requires-python"] == ">=3.11"
    assert int(version) >= 11


def test_secrets_get_neither_into_the_repository_nor_into_the_image():
    ignored = (ROOT / ".gitignore").read_text().splitlines()
    in_context = [
        row
        for row in (ROOT / ".dockerignore").read_text().splitlines()
        if row and not row.startswith("#")
    ]

    assert {".env", "secrets/"} <= set(ignored)
    assert in_context[0] == "*"
    assert {"!secrets", "!.env"} & set(in_context) == set()


# --- Kubernetes


def test_the_manifest_has_two_dispatchers_and_a_set_of_workers_with_lasting_names():
    kinds = {each["kind"]: each["spec"].get("replicas") for each in MANIFESTS}

    assert kinds == {"Deployment": 2, "PodDisruptionBudget": None, "StatefulSet": 3}


@pytest.mark.parametrize("name", sorted(PODS))
def test_no_pod_runs_as_root_or_can_write_to_its_root_file_system(name):
    (container,) = PODS[name]["containers"]

    assert PODS[name]["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


@pytest.mark.parametrize("name", sorted(PODS))
def test_a_pod_reads_the_secret_where_it_is_mounted(name):
    (container,) = PODS[name]["containers"]
    (variable,) = container["env"]
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}

    assert variable["name"] == "DISPATCHER_REDIS_URL_FILE"
    assert variable["value"] == f"{mounts['redis']}/redis_url"


@pytest.mark.parametrize("name", sorted(PODS))
def test_no_probe_restarts_the_fleet_when_redis_is_away(name):
    (container,) = PODS[name]["containers"]

    assert "readinessProbe" in container
    assert "livenessProbe" not in container


def test_a_pod_of_a_worker_is_killed_only_after_its_grace_and_its_release():
    (container,) = PODS["worker"]["containers"]
    grace_s = int(option(container["args"], "grace"))

    assert PODS["worker"]["terminationGracePeriodSeconds"] >= grace_s + RELEASE_S + MARGIN_S


@pytest.mark.parametrize("name", sorted(PODS))
def test_the_command_lines_have_the_commands_and_options_of_the_manifest(name):
    (container,) = PODS[name]["containers"]
    groups = {"dispatcher": dispatcher_cli, "consumers": consumers_cli}
    probes = [each["exec"]["command"] for key, each in container.items() if key.endswith("Probe")]

    for line in (container["args"], *probes):
        assert takes(groups[line[0]], line[1:])


# --- systemd


def unit(name: str) -> dict[str, list[str]]:
    """The settings of a unit's service; one that is given twice has two values."""
    text = (DEPLOY / "systemd" / name).read_text()
    found: dict[str, list[str]] = {}
    for row in text.split("[Service]\n")[1].split("\n[")[0].splitlines():
        if row and not row.startswith("#"):
            key, _, value = row.partition("=")
            found.setdefault(key, []).append(value)
    return found


UNITS = ("dispatcher.service", "consumers@.service")


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_gets_the_secret_as_a_credential(name):
    service = unit(name)

    assert service["LoadCredential"] == ["redis_url:/etc/dispatcher/redis_url"]
    assert "DISPATCHER_REDIS_URL_FILE=%d/redis_url" in service["Environment"]


@pytest.mark.parametrize("name", UNITS)
def test_the_command_line_of_a_unit_exists(name):
    (line,) = unit(name)["ExecStart"]
    program, *words = line.split()
    groups = {"dispatcher": dispatcher_cli, "consumers": consumers_cli}

    assert takes(groups[program.rpartition("/")[2]], words)


def test_a_stopped_unit_of_a_worker_drains_and_its_runs_get_no_signal():
    service = unit("consumers@.service")
    settings = dict(word.split("=") for row in service["Environment"] for word in row.split())
    run = consumers_cli.commands["run"]
    names = {f"CONSUMERS_RUN_{each.name.upper()}" for each in run.params if each.name}

    assert service["KillMode"] == ["mixed"]
    grace_s = int(settings["CONSUMERS_RUN_GRACE_S"])
    assert int(service["TimeoutStopSec"][0]) >= grace_s + RELEASE_S + MARGIN_S
    assert {name for name in settings if name.startswith("CONSUMERS_")} - names == set()


def test_the_workers_of_a_host_have_names_of_their_own():
    (line,) = unit("consumers@.service")["ExecStart"]

    assert line.endswith("--name %H-%i")
