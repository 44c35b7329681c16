"""Objects of Kubernetes and machines of `ray up` in clusters/ have keys and types that are defined.

Nothing here has a cluster. What KubeRay, Kubernetes and clouds define is in cluster_fields.yaml;
Ray's own schema of clusters comes with Ray.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator, ValidationError
from ray.autoscaler._private.util import prepare_config, validate_config

from gfn_ray.cli import parse
from gfn_ray.tasks.infill.config import InfillJob

ROOT = Path(__file__).resolve().parents[2]
CLUSTERS = ROOT / "clusters"
FIELDS = yaml.safe_load((Path(__file__).parent / "cluster_fields.yaml").read_text())
OBJECTS = [
    pytest.param(one, id=f"{file.stem}: {one['kind']}")
    for file in sorted((CLUSTERS / "kuberay").glob("*.yaml"))
    for one in yaml.safe_load_all(file.read_text())
]
CLOUDS = ("aws", "gcp")
SIMPLE = {
    "string": {"type": "string", "minLength": 1},
    "integer": {"type": "integer", "minimum": 0},
    "boolean": {"type": "boolean"},
    # Kubernetes' own words: 500m, 16Gi.
    "quantity": {"type": "string", "pattern": r"^\d+(\.\d+)?(m|Mi|Gi|Ti)?$"},
    "map": {"type": "object", "additionalProperties": {"type": "string"}},
}
FREE = ("rayStartParams", "matchLabels", "selector", "labels")  # of which names are anybody's


def schema(fields: Any) -> dict[str, Any]:
    """JSON Schema of an entry of cluster_fields.yaml; what is not named there is refused."""
    if isinstance(fields, str):
        return SIMPLE[fields] if fields in SIMPLE else schema(FIELDS[fields])
    if isinstance(fields, list) and isinstance(fields[0], str) and fields[0] not in SIMPLE:
        return {"enum": fields[0].split("|")}
    if isinstance(fields, list):
        return {"type": "array", "items": schema(fields[0]), "minItems": 1}
    return {
        "type": "object",
        "properties": {name.rstrip("!"): schema(kind) for name, kind in fields.items()},
        "required": [name.rstrip("!") for name in fields if name.endswith("!")],
        "additionalProperties": False,
    }


def check_object(one: dict[str, Any]) -> None:
    """Raises ValidationError where an object of Kubernetes is not as cluster_fields.yaml says."""
    Draft202012Validator(schema(one.get("kind", "RayJob"))).validate(one)


def check_cloud(one: dict[str, Any]) -> None:
    """Raises where `ray up` would refuse a file, or its cloud would refuse a machine.

    Ray's schema leaves provider and machines open; resources of other names never start anything.
    """
    validate_config(prepare_config(copy.deepcopy(one)))
    cloud = one["provider"]["type"].capitalize()
    Draft202012Validator(schema(f"{cloud}Provider")).validate(one["provider"])
    for kind in one["available_node_types"].values():
        Draft202012Validator(schema(f"{cloud}Node")).validate(kind["node_config"])
        assert set(kind["resources"]) <= {"CPU", "GPU"}, kind["resources"]


def cloud(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((CLUSTERS / f"{name}.yaml").read_text())
    return loaded


def places(tree: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value below an object or list."""
    for key in tree if isinstance(tree, dict) else range(len(tree)):
        yield (*way, key)
        if isinstance(tree[key], dict | list):
            yield from places(tree[key], (*way, key))


def holder(tree: Any, way: tuple[Any, ...]) -> Any:
    for key in way[:-1]:
        tree = tree[key]
    return tree


def misspelt(tree: Any, free: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    """The tree once for each of its keys, with that one misspelt."""
    for way in places(tree):
        if isinstance(way[-1], str) and not set(way[:-1]) & set(free):
            changed = copy.deepcopy(tree)
            inside = holder(changed, way)
            inside[way[-1] + "s"] = inside.pop(way[-1])
            yield ".".join(map(str, way)), changed


def mistyped(tree: Any) -> Iterator[tuple[str, Any]]:
    """The tree once for each of its plain values, with a list in that one's place."""
    for way in places(tree):
        inside = holder(tree, way)
        if not isinstance(inside[way[-1]], dict | list):
            changed = copy.deepcopy(tree)
            holder(changed, way)[way[-1]] = [["wrong"]]
            yield ".".join(map(str, way)), changed


@pytest.mark.parametrize("one", OBJECTS)
def test_an_object_is_as_kuberay_and_kubernetes_define_it(one: dict[str, Any]) -> None:
    check_object(one)


@pytest.mark.parametrize("one", OBJECTS)
def test_every_key_of_it_is_refused_when_misspelt(one: dict[str, Any]) -> None:
    cases = list(misspelt(one, FREE))
    assert len(cases) > 5
    for where, changed in cases:
        with pytest.raises(ValidationError):
            check_object(changed)
            pytest.fail(f"accepted with {where} misspelt")


@pytest.mark.parametrize("one", OBJECTS)
def test_every_value_of_it_is_refused_when_of_another_type(one: dict[str, Any]) -> None:
    for where, changed in mistyped(one):
        if where == "kind":
            continue  # it says which object is meant
        with pytest.raises(ValidationError):
            check_object(changed)
            pytest.fail(f"accepted with a list at {where}")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("replicas", "4"),
        ("replicas", 1.5),
        ("replicas", -1),
        ("groupName", 3),
        ("minReplicas", True),
    ],
)
def test_a_number_in_quotes_and_its_like_are_refused(name: str, value: Any) -> None:
    (one,) = (param.values[0] for param in OBJECTS if param.id == "rayjob: RayJob")
    changed = copy.deepcopy(one)
    changed["spec"]["rayClusterSpec"]["workerGroupSpecs"][0][name] = value
    with pytest.raises(ValidationError):
        check_object(changed)


@pytest.mark.parametrize("name", CLOUDS)
def test_ray_up_takes_the_file(name: str) -> None:
    check_cloud(cloud(name))


@pytest.mark.parametrize("name", CLOUDS)
def test_every_key_of_such_a_file_is_refused_when_misspelt(name: str) -> None:
    # Names of node types, and paths, are anybody's.
    cases = [
        (where, changed)
        for where, changed in misspelt(cloud(name), ("file_mounts",))
        if not re.fullmatch(r"available_node_types\.\w+", where)
    ]
    assert len(cases) > 50
    for where, changed in cases:
        with pytest.raises((ValidationError, ValueError, KeyError, AssertionError)):
            check_cloud(changed)
            pytest.fail(f"accepted with {where} misspelt")


@pytest.mark.parametrize("name", CLOUDS)
def test_a_wrong_type_in_such_a_file_is_refused(name: str) -> None:
    for where in ("max_workers", "auth.ssh_user", "available_node_types.samplers.min_workers"):
        changed = cloud(name)
        holder(changed, tuple(where.split(".")))[where.split(".")[-1]] = ["wrong"]
        with pytest.raises(ValidationError):
            check_cloud(changed)


def ray_clusters() -> dict[str, dict[str, Any]]:
    found = {}
    for param in OBJECTS:
        spec = param.values[0]["spec"]
        if "headGroupSpec" in spec.get("rayClusterSpec", spec):
            found[param.id] = spec.get("rayClusterSpec", spec)
    return found


def test_pods_share_the_volume_on_which_runs_lie_and_have_shared_memory() -> None:
    claims = {p.values[0]["metadata"]["name"] for p in OBJECTS if p.id.endswith("VolumeClaim")}
    assert len(ray_clusters()) == 2
    for spec in ray_clusters().values():
        for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
            pod = group["template"]["spec"]
            (container,) = pod["containers"]
            env = {one["name"]: one["value"] for one in container["env"]}
            at = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
            volumes = {one["name"]: one for one in pod["volumes"]}
            assert at["gfn-ray"] == env["GFN_RAY_HOME"]
            assert Path(env["GFN_RAY_CACHE"]).is_relative_to(env["GFN_RAY_HOME"])
            assert volumes["gfn-ray"]["persistentVolumeClaim"]["claimName"] in claims
            assert volumes["shm"]["emptyDir"]["medium"] == "Memory"
            assert at["shm"] == "/dev/shm"


def test_a_head_offers_no_cpus_and_has_time_for_a_checkpoint() -> None:
    for spec in ray_clusters().values():
        head = spec["headGroupSpec"]
        pod = head["template"]["spec"]
        (container,) = pod["containers"]
        assert head["rayStartParams"]["num-cpus"] == "0"
        *_, script, seconds = container["lifecycle"]["preStop"]["exec"]["command"]
        assert Path(script).name == "stop_jobs.py"
        env = {one["name"]: one["value"] for one in container["env"]}
        assert pod["terminationGracePeriodSeconds"] > int(seconds)
        assert env["RAY_JOB_STOP_WAIT_TIME_S"] == seconds


def test_a_rayjobs_pods_are_as_many_as_its_settings_have_actors() -> None:
    job = next(param.values[0] for param in OBJECTS if param.id == "rayjob: RayJob")
    python, script, *flags = job["spec"]["entrypoint"].split()
    assert python == "python" and (ROOT / Path(script).relative_to("/opt/gfn_ray")).is_file()
    assert "--resume auto" in " ".join(flags), "a retry resumes"
    config = parse(InfillJob, [flag.replace("/opt/gfn_ray", str(ROOT)) for flag in flags])
    assert str(config.run_dir).startswith("/mnt/gfn_ray/")
    groups = job["spec"]["rayClusterSpec"]["workerGroupSpecs"]
    assert {one["groupName"]: one["replicas"] for one in groups} == {
        "samplers": config.samplers,
        "rewards": config.reward_actors,
        "learners": 1,
    }
    mlflow = {p.values[0]["metadata"]["name"]: p.values[0] for p in OBJECTS if "Service" in p.id}
    port = mlflow["mlflow"]["spec"]["ports"][0]["port"]
    assert config.tracking.uri == f"http://mlflow:{port}"


def test_options_of_mlflows_server_are_some_that_it_has() -> None:
    from mlflow.cli import server

    pods = (param.values[0]["spec"] for param in OBJECTS if param.id == "mlflow: Deployment")
    (container,) = next(pods)["template"]["spec"]["containers"]
    known = {option for one in server.params for option in one.opts}
    assert container["command"] == ["mlflow", "server"]
    assert {argument.split("=")[0] for argument in container["args"]} <= known
