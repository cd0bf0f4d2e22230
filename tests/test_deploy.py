"""The files in deploy/ are valid by their formats' schemas, agree with each other, and give options that the server has."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import typer
import yaml

from dlcv.cli.infer.app import app

REPOSITORY = Path(__file__).resolve().parents[1]
DEPLOY = REPOSITORY / "deploy"
KUBERNETES = ("base", "gpu")
CACHE = "/var/cache/dlcv"
USER = 10001


def instructions(path: Path = DEPLOY / "Containerfile") -> list[tuple[str, str]]:
    """Return the instructions of a Containerfile, each its word and the rest."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = [line.strip().partition(" ") for line in joined.splitlines() if line.strip()]
    return [(word, rest.strip()) for word, _, rest in split]


def last_stage() -> list[tuple[str, str]]:
    found = instructions()
    start = max(number for number, (word, _) in enumerate(found) if word == "FROM")
    return found[start:]


def only(word: str) -> str:
    (rest,) = (rest for name, rest in last_stage() if name == word)
    return rest


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return loaded


def documents(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the resources of a kustomization by kind and name, with its patches and images."""
    kustomization = yaml.safe_load((folder / "kustomization.yaml").read_text())
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for entry in kustomization["resources"]:
        path = (folder / entry).resolve()
        if path.is_dir():
            found |= documents(path)
        else:
            for document in yaml.safe_load_all(path.read_text()):
                found[identity(document)] = document
    for patch in kustomization.get("patches", ()):
        change = yaml.safe_load((folder / patch["path"]).read_text())
        key = identity(change)
        if change.pop("$patch", None) == "delete":
            del found[key]
        else:
            found[key] = merged(found[key], change)
    for image in kustomization["images"]:
        for container in containers(found):
            name = container["image"].partition(":")[0]
            if name == image["name"]:
                container["image"] = f"{image.get('newName', name)}:{image['newTag']}"
    return found


def identity(document: dict[str, Any]) -> tuple[str, str]:
    return document["kind"], document["metadata"]["name"]


def merged(old: Any, new: Any) -> Any:
    """Return a strategic merge: mappings key by key, lists of named things by their names, other lists whole."""
    if isinstance(old, dict) and isinstance(new, dict):
        return {**old, **{k: merged(old[k], v) if k in old else v for k, v in new.items()}}
    if isinstance(old, list) and all(isinstance(x, dict) and "name" in x for x in (*old, *new)):
        changes = {x["name"]: x for x in new}
        kept = [merged(x, changes.pop(x["name"], {})) for x in old]
        return [*kept, *changes.values()]
    return new


def containers(found: dict[tuple[str, str], dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for (kind, _), document in found.items():
        if kind == "Deployment":
            yield from document["spec"]["template"]["spec"]["containers"]


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = documents(DEPLOY / "kubernetes" / name)["Deployment", "dlcv"]["spec"]
    return dict(spec["template"]["spec"])


def server(name: str) -> dict[str, Any]:
    (container,) = pod(name)["containers"]
    return dict(container)


def commands() -> dict[str, list[str]]:
    """Return the arguments after `dlcv-infer serve` of everything that starts one, by where it stands."""
    program, *entry = json.loads(only("ENTRYPOINT"))
    assert [program, entry[0]] == ["dlcv-infer", "serve"]
    given = {
        "Containerfile": json.loads(only("CMD")),
        "compose.yaml": compose()["services"]["server"]["command"],
        **{f"kubernetes/{name}": server(name)["args"] for name in KUBERNETES},
    }
    page = (DEPLOY / "README.md").read_text()
    for number, line in enumerate(re.findall(r"^docker run .*", page, re.MULTILINE)):
        _, _, rest = line.partition(" dlcv:")
        given[f"README.md, docker run {number + 1}"] = shlex.split(rest)[1:]
    return {where: [*entry[1:], *arguments] for where, arguments in given.items()}


def value_of(arguments: list[str], option: str) -> str:
    return arguments[len(arguments) - arguments[::-1].index(option)]


# The image


def test_the_image_runs_as_a_user_with_a_number_and_not_as_root() -> None:
    assert only("USER") == f"{USER}:{USER}"
    assert any(f"useradd --uid {USER}" in rest for word, rest in last_stage() if word == "RUN")


def test_the_image_starts_the_server_itself_so_that_signals_reach_it() -> None:
    assert json.loads(only("ENTRYPOINT"))[:2] == [
        "dlcv-infer",
        "serve",
    ]  # a shell's form is no JSON
    assert only("STOPSIGNAL") == "SIGTERM"


def test_bases_are_named_by_a_version() -> None:
    bases = [rest.split()[0] for word, rest in instructions() if word == "FROM"]
    assert len(bases) == 2
    for base in bases:
        assert re.fullmatch(r"docker\.io/library/python:3\.\d+-slim-\w+", base), base
    assert len(set(bases)) == 1  # the environment's python is a link to the base's


def test_the_python_of_the_image_suits_the_project() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    least = re.search(r'requires-python = ">=3\.(\d+)"', text)
    base = re.search(r"python:3\.(\d+)-", last_stage()[0][1])
    assert least
    assert base
    assert int(base[1]) >= int(least[1])


def test_the_health_check_needs_what_the_image_has_and_asks_the_server() -> None:
    command = json.loads(only("HEALTHCHECK").partition(" CMD ")[2])
    assert command[:2] == ["python", "-c"]
    compile(command[2], "health check", "exec")
    assert "http://127.0.0.1:8000/v2/health/ready" in command[2]
    assert compose()["services"]["server"]["healthcheck"]["test"][1:] == command


def test_the_extras_of_the_image_exist() -> None:
    import tomllib

    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    text = (DEPLOY / "Containerfile").read_text() + (DEPLOY / "README.md").read_text()
    named = re.findall(r"ENGINE=([\w,]+)", text)
    assert named
    assert {"serve", "grpc", *(extra for names in named for extra in names.split(","))} <= {*extras}


def test_what_is_copied_into_the_build_is_what_it_needs() -> None:
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    first, *others = [line for line in lines if line and not line.startswith("#")]
    assert first == "*"  # all else is left out
    allowed = {line[1:] for line in others if line.startswith("!")}
    folders = {path.name for path in (REPOSITORY / "src" / "dlcv").iterdir() if path.is_symlink()}
    files = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    assert allowed == {*folders, *files, "src", "packages/vit"}
    assert all((REPOSITORY / name).exists() for name in allowed)
    copied = [rest for word, rest in instructions() if word in ("COPY", "ADD")]
    assert copied == [". .", "--from=build /opt/dlcv /opt/dlcv"]


# Schemas


def test_compose_is_valid_by_the_specification_of_compose() -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "check_jsonschema"),
            *("--builtin-schema", "vendor.compose-spec", str(DEPLOY / "compose.yaml")),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", KUBERNETES)
def test_manifests_are_valid_by_the_schemas_of_kubernetes(name: str) -> None:
    found = documents(DEPLOY / "kubernetes" / name)
    assert {("Deployment", "dlcv"), ("Service", "dlcv")} <= {*found}
    assert (("HorizontalPodAutoscaler", "dlcv") in found) == (name == "base")
    for document in found.values():
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_a_misspelt_key_of_a_manifest_is_found() -> None:
    deployment = documents(DEPLOY / "kubernetes" / "base")["Deployment", "dlcv"]
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, kubernetes_validate.latest_version(), strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not here")
@pytest.mark.parametrize("name", KUBERNETES)
def test_kubectl_makes_of_them_what_these_tests_check(name: str) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / name)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    rendered = {identity(document): document for document in yaml.safe_load_all(made)}
    expected = documents(DEPLOY / "kubernetes" / name)
    assert sorted_by_name(rendered) == sorted_by_name(expected)


def sorted_by_name(value: Any) -> Any:
    """Return a document with its lists of named things sorted, whose order means nothing."""
    if isinstance(value, dict):
        return {key: sorted_by_name(x) for key, x in value.items()}
    if isinstance(value, list) and all(isinstance(x, dict) and "name" in x for x in value):
        return sorted(map(sorted_by_name, value), key=lambda x: str(x["name"]))
    return value


# What must hold in each of them


@pytest.mark.parametrize("name", KUBERNETES)
def test_pods_are_restricted(name: str) -> None:
    spec, container = pod(name), server(name)
    context = spec["securityContext"]
    assert context["runAsNonRoot"] is True
    assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {USER}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert {"cpu", "memory"} <= {*container["resources"]["limits"]}


def test_the_gpu_variant_asks_for_a_gpu_and_an_engine_on_it() -> None:
    container = server("gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert value_of(container["args"], "--engine") in ("cuda", "trt")
    assert (container["image"], server("base")["image"]) == ("dlcv:gpu", "dlcv:cpu")


@pytest.mark.parametrize("name", KUBERNETES)
def test_what_is_written_to_is_a_volume_and_models_are_read_only(name: str) -> None:
    mounts = {mount["mountPath"]: mount for mount in server(name)["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    assert {mount["name"] for mount in mounts.values()} == {*volumes}
    for path in (CACHE, "/tmp"):  # a path in the container
        assert "emptyDir" in volumes[mounts[path]["name"]]
    assert mounts["/models"]["readOnly"] is True
    keys = value_of(server(name)["args"], "--api-key-file")
    assert keys == f"{mounts['/run/secrets/dlcv']['mountPath']}/api-key"
    assert re.search(rf"\bDLCV_CACHE={CACHE}\b", only("ENV"))


def test_compose_gives_the_server_no_more_than_it_needs() -> None:
    for service in compose()["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    models, cache = compose()["services"]["server"]["volumes"]
    assert (models["target"], models["read_only"]) == ("/models", True)
    assert cache == f"cache:{CACHE}"
    keys = value_of(compose()["services"]["server"]["command"], "--api-key-file")
    assert keys == "/run/secrets/api_key"
    assert [*compose()["secrets"]] == ["api_key"]


def test_prometheus_asks_the_server_of_compose() -> None:
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (job,) = config["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["server:8000"]}]
    assert job["authorization"]["credentials_file"] == "/run/secrets/api_key"


@pytest.mark.parametrize("name", KUBERNETES)
def test_ports_and_probes_fit_the_server(name: str) -> None:
    container = server(name)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    arguments = commands()[f"kubernetes/{name}"]
    assert ports == {
        "http": int(value_of(arguments, "--port")),
        "grpc": int(value_of(arguments, "--grpc-port")),
    }
    assert only("EXPOSE").split() == [str(port) for port in ports.values()]
    paths = {p: container[p]["httpGet"]["path"] for p in container if p.endswith("Probe")}
    assert paths == {
        "startupProbe": "/v2/health/ready",
        "livenessProbe": "/v2/health/live",
        "readinessProbe": "/v2/health/ready",
    }
    service = documents(DEPLOY / "kubernetes" / name)["Service", "dlcv"]["spec"]
    assert {port["targetPort"] for port in service["ports"]} == {*ports}


def test_a_server_has_time_to_drain_before_it_is_killed() -> None:
    for name in KUBERNETES:
        container = server(name)
        (_, before) = container["lifecycle"]["preStop"]["exec"]["command"]
        drain = float(value_of(container["args"], "--drain"))
        assert float(before) + drain < pod(name)["terminationGracePeriodSeconds"]
    service = compose()["services"]["server"]
    grace = float(service["stop_grace_period"].removesuffix("s"))
    assert float(value_of(service["command"], "--drain")) < grace


def test_threads_are_the_cpus_that_a_pod_may_use() -> None:
    container = server("base")
    assert value_of(container["args"], "--threads") == container["resources"]["limits"]["cpu"]


@pytest.mark.parametrize("where", commands())
def test_the_server_has_the_options_that_it_is_given(where: str) -> None:
    group: Any = typer.main.get_command(app)
    serve = group.commands["serve"]
    context = serve.make_context("serve", [], resilient_parsing=True)
    serve.make_parser(context).parse_args(list(commands()[where]))  # raises NoSuchOption
