"""Each overlay of `cluster/kuberay`: known to the API, and safe by what it says."""

import json
import os
import re
import shlex
import subprocess
from copy import deepcopy
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import ray
import yaml

from pipeline.config import RunConfig
from pipeline.engine_config import ClusterConfig
from pipeline.yaml_config import load_config
from tests.cluster.crd import VARIABLE, faults, folder
from tests.cluster.rendered import KUBERAY, OVERLAYS, Documents, cluster_spec, of_kind, pod_specs, rendered

OURS = {"app.kubernetes.io/name": "gradsieve"}
KUBERNETES = "1.32"
"""Of the API that the rest is held against."""


@pytest.fixture(params=OVERLAYS)
def documents(request: pytest.FixtureRequest) -> Documents:
    return deepcopy(rendered(request.param))


@pytest.fixture
def spec(documents: Documents) -> dict[str, Any]:
    return cluster_spec(documents)


def _is_rays(document: dict[str, Any]) -> bool:
    return str(document["apiVersion"]).startswith("ray.io/")


def test_overlays_are_those_that_the_readme_names() -> None:
    assert OVERLAYS == ["cluster", "run", "schedule", "schedule-plain"]


def test_resources_of_ray_are_as_their_definitions_say_strictly(documents: Documents) -> None:
    place = folder()
    if place is None:
        pytest.skip(f"{VARIABLE} names no folder with KubeRay's definitions")
    checked = [document for document in documents if _is_rays(document)]
    assert checked
    for document in checked:
        assert list(faults(document, place)) == [], document["kind"]


def test_a_typo_in_a_resource_of_ray_would_be_found() -> None:
    place = folder()
    if place is None:
        pytest.skip(f"{VARIABLE} names no folder with KubeRay's definitions")
    job = deepcopy(of_kind(rendered("run"), "RayJob"))
    job["spec"]["shutdownAfterJobFinish"] = job["spec"].pop("shutdownAfterJobFinishes")
    job["spec"]["rayClusterSpec"]["workerGroupSpecs"][1]["template"]["spec"]["toleration"] = []
    found = "\n".join(faults(job, place))
    assert "'shutdownAfterJobFinish'" in found
    assert "workerGroupSpecs/1/template/spec: " in found


def test_all_other_resources_are_as_kubernetes_says_strictly(documents: Documents) -> None:
    checked = [document for document in documents if not _is_rays(document)]
    assert {"ServiceAccount", "ConfigMap", "NetworkPolicy"} <= {document["kind"] for document in checked}
    for document in checked:
        kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_pods_of_ray_are_as_kubernetes_says_strictly(documents: Documents) -> None:
    """The definitions have them too; this holds where those are not at hand."""
    specs = pod_specs([document for document in documents if _is_rays(document)])
    assert len(specs) >= 4
    for spec in specs:
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": spec}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_cluster_is_the_same_in_each_overlay() -> None:
    run, schedule = cluster_spec(rendered("run")), cluster_spec(rendered("schedule"))
    assert run == schedule
    standing = cluster_spec(rendered("cluster"))
    assert standing["workerGroupSpecs"] == run["workerGroupSpecs"]
    assert cluster_spec(rendered("schedule-plain")) == standing


def test_version_of_ray_is_the_one_that_is_installed(spec: dict[str, Any]) -> None:
    assert spec["rayVersion"] == ray.__version__


def test_images_are_of_one_name_with_a_tag(documents: Documents) -> None:
    images = {container["image"] for pod in pod_specs(documents) for container in pod["containers"]}
    assert len(images) == 1
    assert re.fullmatch(r"REGISTRY/gradsieve:\d+\.\d+\.\d+", images.pop())


def test_names_are_short_enough_for_what_is_made_from_them(documents: Documents) -> None:
    longest = {"RayJob": 47, "RayCronJob": 36, "CronJob": 52, "RayCluster": 63}
    for document in documents:
        name = document["metadata"]["name"]
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name)
        assert len(name) <= longest.get(document["kind"], 63)


def test_every_namespaced_resource_lies_in_one_namespace(documents: Documents) -> None:
    assert {document["metadata"]["namespace"] for document in documents} == {"gradsieve"}


def test_authentication_is_on_with_a_token_by_reference(documents: Documents, spec: dict[str, Any]) -> None:
    assert spec["authOptions"] == {"mode": "token", "secretName": "gradsieve-ray-token"}
    assert not [document for document in documents if document["kind"] == "Secret"]
    for pod in pod_specs(documents):
        for container in pod["containers"]:
            for variable in container.get("env", []):
                secret = re.search(r"TOKEN|SECRET|PASSWORD|KEY", variable["name"])
                assert not secret or "secretKeyRef" in variable["valueFrom"]


def test_password_of_redis_comes_by_reference() -> None:
    options = cluster_spec(rendered("cluster"))["gcsFaultToleranceOptions"]
    assert options["redisPassword"] == {"valueFrom": {"secretKeyRef": {"name": "gradsieve-redis", "key": "password"}}}
    assert options["redisAddress"].startswith("rediss://")


def test_nothing_heavy_runs_on_the_head(spec: dict[str, Any]) -> None:
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in str(spec["headGroupSpec"]["template"])


def test_dashboard_is_reached_by_pods_of_the_run_the_operator_and_nobody_else(documents: Documents) -> None:
    policies = [document["spec"] for document in documents if document["kind"] == "NetworkPolicy"]
    ruled = [policy for policy in policies if "Ingress" in policy["policyTypes"]]
    assert [policy["podSelector"] for policy in ruled] == [{"matchLabels": OURS}]
    for rule in ruled[0]["ingress"]:
        assert rule["from"], "an empty list of sources would let everyone in"
        ports = {port["port"] for port in rule.get("ports", [])}
        for source in rule["from"]:
            pods = source.get("podSelector", {}).get("matchLabels", {})
            if 8265 in ports:
                assert pods == {"app.kubernetes.io/name": "kuberay-operator"}
            elif not ports:
                assert source == {"podSelector": {"matchLabels": OURS}}
            else:
                assert ports == {8080, 44217, 44227}
    assert cluster_spec(documents)["headGroupSpec"]["serviceType"] == "ClusterIP"
    assert not any(document["kind"] in {"Ingress", "Service"} for document in documents)


def test_no_pod_reaches_the_metadata_service_of_its_node(documents: Documents) -> None:
    for document in documents:
        if document["kind"] == "NetworkPolicy":
            blocks = [to["ipBlock"] for rule in document["spec"]["egress"] for to in rule["to"] if "ipBlock" in to]
            assert blocks
            assert all(block["except"] == ["169.254.0.0/16"] for block in blocks)


def test_every_pod_is_within_the_policy(documents: Documents) -> None:
    templates = [node for node in _templates(documents) if "containers" in node["spec"]]
    assert len(templates) >= 4
    for template in templates:
        assert OURS.items() <= template["metadata"]["labels"].items()


def _templates(node: Any) -> list[dict[str, Any]]:
    if isinstance(node, list):
        return [found for item in node for found in _templates(item)]
    if not isinstance(node, dict):
        return []
    own = [node] if isinstance(node.get("spec"), dict) and "metadata" in node else []
    return own + [found for value in node.values() for found in _templates(value)]


def test_pods_have_no_rights_that_they_do_not_need(documents: Documents) -> None:
    for pod in pod_specs(documents):
        assert pod["serviceAccountName"] == "gradsieve"
        is_head = pod["containers"][0]["name"] == "ray-head"
        assert pod["automountServiceAccountToken"] is is_head  # the autoscaler beside it speaks to Kubernetes
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            context = container["securityContext"]
            assert context == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_autoscaler_beside_the_head_has_no_more_rights_than_the_others(spec: dict[str, Any]) -> None:
    own = spec["headGroupSpec"]["template"]["spec"]["containers"][0]["securityContext"]
    assert spec["autoscalerOptions"]["securityContext"] == own


def test_every_container_says_what_it_needs(documents: Documents) -> None:
    for pod in pod_specs(documents):
        for container in pod["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys()
            assert resources["requests"] == resources["limits"]  # Ray reads its node's size from the limits


def test_pods_are_given_longer_than_training_takes_to_save_itself(spec: dict[str, Any]) -> None:
    for pod in pod_specs(spec):
        assert pod["terminationGracePeriodSeconds"] > ClusterConfig().grace_seconds


def test_spot_workers_come_first_and_tolerate_what_spot_nodes_are_tainted_with(spec: dict[str, Any]) -> None:
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    assert groups["gpu-spot"]["priority"] > groups["gpu"]["priority"]
    assert spec["autoscalerOptions"]["version"] == "v2"  # v1 knows no priority
    spot, stays = (groups[name]["template"]["spec"] for name in ("gpu-spot", "gpu"))
    tolerated = {toleration["key"] for toleration in spot["tolerations"]}
    assert tolerated == {"nvidia.com/gpu", "gradsieve/spot"}
    assert {toleration["key"] for toleration in stays["tolerations"]} == {"nvidia.com/gpu"}
    assert spot["nodeSelector"] != stays["nodeSelector"]
    assert spot["containers"] == stays["containers"]


def test_workers_come_with_work_and_go_without(spec: dict[str, Any]) -> None:
    assert spec["enableInTreeAutoscaling"] is True
    for group in spec["workerGroupSpecs"]:
        assert (group["replicas"], group["minReplicas"]) == (0, 0)
        assert group["template"]["spec"]["restartPolicy"] == "Never"  # as the autoscaler wants it


def _run_config(documents: Documents) -> RunConfig:
    text = of_kind(documents, "ConfigMap")["data"]["curation.yaml"]
    return load_config(RunConfig, text, [], "curation.yaml")


def test_configuration_is_one_of_ours_and_fits_the_cluster(documents: Documents, spec: dict[str, Any]) -> None:
    config = _run_config(documents)
    groups = {group["groupName"]: group for group in spec["workerGroupSpecs"]}
    for name in ("gpu", "gpu-spot"):
        gpus = int(groups[name]["template"]["spec"]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"])
        assert groups[name]["maxReplicas"] * gpus >= config.train.num_workers
    assert config.cluster.auth_mode == "token"
    assert config.cluster.address is None  # the job's own cluster


def test_configuration_is_the_shipped_medium_one_in_another_place(documents: Documents) -> None:
    shipped = load_config(RunConfig, (KUBERAY.parents[1] / "pipeline/configs/medium.yaml").read_text(), [], "medium")
    here = _run_config(documents)
    for block in ("reference", "selectors", "binarize", "aggregate", "select", "reshard", "report", "seed"):
        assert getattr(here, block) == getattr(shipped, block)
    own = {"checkpoint_every"}
    assert here.train.model_dump(exclude=own) == shipped.train.model_dump(exclude=own)


@pytest.mark.parametrize("overlay", ["run", "schedule"])
def test_job_runs_the_mounted_configuration_and_its_cluster_goes_afterwards(overlay: str) -> None:
    documents = rendered(overlay)
    if overlay == "run":
        job = of_kind(documents, "RayJob")["spec"]
    else:
        job = of_kind(documents, "RayCronJob")["spec"]["jobTemplate"]
    head = job["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    volumes = {volume["name"]: volume for volume in head["volumes"]}
    assert volumes["config"]["configMap"]["name"] == of_kind(documents, "ConfigMap")["metadata"]["name"]
    assert shlex.split(job["entrypoint"])[:4] == ["python", "-m", "pipeline.run", f"{mounts['config']}/curation.yaml"]
    assert job["backoffLimit"] >= 1
    assert job["submitterConfig"]["backoffLimit"] == 0
    hours = _run_config(documents).limits.hours
    assert hours is not None
    if overlay == "run":
        assert job["shutdownAfterJobFinishes"] is True
        assert job["activeDeadlineSeconds"] > hours * 3600  # the run's own limit stops it between stages, and says so
    else:
        # The operator refuses rules together with either of these.
        assert not {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & job.keys()
        gone = {(rule["policy"], rule["condition"]["jobStatus"]) for rule in job["deletionStrategy"]["deletionRules"]}
        assert gone == {(policy, end) for policy in ("DeleteCluster", "DeleteSelf") for end in ("SUCCEEDED", "FAILED")}
        assert job["activeDeadlineSeconds"] < 86400  # a night's run is over before the next one


def test_nightly_runs_have_an_output_of_their_own_day() -> None:
    day = r"output=s3://BUCKET/runs/\$\(date -u \+%Y-%m-%d\)"
    assert re.search(day + "$", of_kind(rendered("schedule"), "RayCronJob")["spec"]["jobTemplate"]["entrypoint"])
    (argument,) = _submitting_container()["args"]
    assert re.search(day + "$", argument.strip())


def _submitting_container() -> dict[str, Any]:
    job = of_kind(rendered("schedule-plain"), "CronJob")["spec"]["jobTemplate"]["spec"]
    (container,) = job["template"]["spec"]["containers"]
    return container


def test_plain_schedule_submits_to_the_standing_cluster_and_never_twice_at_once() -> None:
    documents = rendered("schedule-plain")
    cron = of_kind(documents, "CronJob")["spec"]
    assert cron["concurrencyPolicy"] == "Forbid"
    environment = {variable["name"]: variable for variable in _submitting_container()["env"]}
    cluster = of_kind(documents, "RayCluster")["metadata"]["name"]
    assert environment["RAY_API_SERVER_ADDRESS"]["value"] == f"http://{cluster}-head-svc:8265"
    token = environment["RAY_AUTH_TOKEN"]["valueFrom"]["secretKeyRef"]
    assert token == {"name": cluster_spec(documents)["authOptions"]["secretName"], "key": "auth_token"}


def test_plain_schedule_says_to_ray_what_it_means(tmp_path: Path) -> None:
    """The pod's own command, with a `ray` that writes down what it was given."""
    said = tmp_path / "said"
    (tmp_path / "ray").write_text(f'#!/bin/sh\nfor word in "$@"; do echo "$word"; done > {said}\n')
    (tmp_path / "ray").chmod(0o755)
    container = _submitting_container()
    path = f"{tmp_path}:{os.environ['PATH']}"
    subprocess.run([*container["command"], *container["args"]], check=True, env={"PATH": path}, timeout=60)
    words = said.read_text().splitlines()
    assert words[:3] == ["job", "submit", "--metadata-json"]
    assert json.loads(words[3]).keys() == {"owner", "config"}
    assert words[4:9] == ["--", "python", "-m", "pipeline.run", "/etc/gradsieve/curation.yaml"]
    assert re.fullmatch(r"output=s3://BUCKET/runs/\d{4}-\d\d-\d\d", words[9])
    assert len(words) == 10


def test_no_file_of_the_manifests_has_a_secret_or_runs_code_from_elsewhere() -> None:
    for path in KUBERAY.rglob("*.yaml"):
        for document in yaml.safe_load_all(path.read_text()):
            assert document is None or document.get("kind") != "Secret", path
        assert not re.search(r"https?://(?!gradsieve-head-svc)", path.read_text()), path
