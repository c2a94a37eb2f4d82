"""ray_private.py fits Ray's undocumented parts, and no other file uses them. It was checked against Ray 2.60.0."""

import importlib
import inspect
import logging
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import ray
import requests
from ray._private import services
from ray._private.authentication import authentication_token_setup
from ray._private.node import Node
from ray._private.state import available_resources_per_node
from ray.core.generated import gcs_pb2, gcs_service_pb2
from ray.job_submission import JobSubmissionClient

from cluster import ray_private
from tests.support.bounds import assert_at_most, wait_until
from tests.support.local_cluster import STARTED

VERSION = "2.60.0"
ROOT = Path(__file__).parents[2]
PRIVATE = re.compile(r"ray\._private|ray\._raylet|ray\.core|ray\.cluster_utils|ray\.dashboard|ray\.autoscaler")


def source_of(module: str) -> str:
    """Return the source of a module of Ray without importing the module."""
    return (Path(ray.__file__).parents[1] / f"{module.replace('.', '/')}.py").read_text()


def test_ray_is_the_version_that_the_contract_was_checked_against() -> None:
    assert ray.__version__ == VERSION, (
        f"ray_private.py was checked against Ray {VERSION}, installed is {ray.__version__}; run the other tests of this"
        " file, read Ray's changes to what ray_private.py uses, and change VERSION"
    )


def test_no_other_file_imports_private_parts_of_ray() -> None:
    files = [
        file for folder in ("cluster", "jobs", "mnist_lib", "benchmarks") for file in (ROOT / folder).rglob("*.py")
    ]
    files += (ROOT / "tests/support").rglob("*.py")
    found = {
        str(file.relative_to(ROOT))
        for file in files
        for line in file.read_text().splitlines()
        if re.match(r"\s*(from|import) ", line) and PRIVATE.search(line)
    }
    assert found == {"cluster/ray_private.py", "tests/support/local_cluster.py"}  # the second one as text of a script


def test_no_other_file_uses_underscore_options_of_tasks() -> None:
    found = {
        str(file.relative_to(ROOT))
        for folder in ("cluster", "jobs", "mnist_lib", "benchmarks")
        for file in (ROOT / folder).rglob("*.py")
        if re.search(r"_generator_backpressure|_system_config\b|\b_node_ip_address", file.read_text())
    }
    assert found == {"cluster/ray_private.py"}


def test_the_messages_that_are_sent_to_the_head_exist_in_ray() -> None:
    assert ray_private.CheckAliveRequest().SerializeToString() == b""
    assert ray_private.GetAllNodeInfoRequest().SerializeToString() == b""
    with ray_private.connection_to_head("127.0.0.1:9") as head:  # connects only when it is used
        assert callable(head.CheckAlive)
        assert callable(head.GetAllNodeInfo)


def test_the_messages_about_nodes_have_the_fields_that_are_read() -> None:
    messages: Any = gcs_pb2
    reply: Any = gcs_service_pb2
    assert "node_info_list" in reply.GetAllNodeInfoReply.DESCRIPTOR.fields_by_name
    node = messages.GcsNodeInfo()
    assert node.state == ray_private.ALIVE
    assert (node.node_id, node.node_manager_hostname) == (b"", "")
    assert "death_info" in node.DESCRIPTOR.fields_by_name


def test_the_resources_of_this_machine_are_counted_without_ray() -> None:
    cpus, gpus = ray_private.this_machine_resources()
    assert 1 <= cpus <= (os.cpu_count() or 1)
    assert gpus == len([*Path("/dev").glob("nvidia[0-9]*")])


def test_without_a_head_on_this_machine_a_connection_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "canonicalize_bootstrap_address", lambda *_, **__: None)
    monkeypatch.setattr(services, "find_gcs_addresses", lambda: set())
    with pytest.raises(ConnectionError):
        ray_private.head_on_this_machine()


def test_a_token_is_found_once_it_is_set_and_the_cache_is_reset(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    loader = ray_private.token_loader()
    loader.reset_cache()
    try:
        assert not loader.has_token(ignore_auth_mode=True)
        monkeypatch.setenv("RAY_AUTH_TOKEN", "a" * 32)
        loader.reset_cache()
        assert loader.has_token(ignore_auth_mode=True)
    finally:
        monkeypatch.undo()
        loader.reset_cache()


def test_no_token_is_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray_private.enable_token_if_found()
    assert not [*tmp_path.rglob("*")]
    enable = authentication_token_setup.maybe_enable_token_auth_if_token_available
    assert "warn_if_disabled" in inspect.signature(enable).parameters


def test_the_option_that_limits_unread_results_is_valid_for_generators() -> None:
    def function() -> Any:
        yield 1

    task: Any = ray.remote(num_returns="streaming")(function)
    task.options(**{ray_private.MAX_UNREAD_OPTION: 16})
    with pytest.raises(ValueError, match="_no_such_option"):
        task.options(_no_such_option=16)


def test_without_a_connection_there_is_no_dashboard_address() -> None:
    code = "from cluster.ray_private import dashboard_address; print(dashboard_address())"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"
    assert inspect.signature(available_resources_per_node).parameters == {}


def test_every_request_of_the_job_client_goes_through_the_method_that_sets_timeouts() -> None:
    """`_do_request` passes its `**kwargs`, such as a timeout, to `requests`. The constructor calls it, too."""
    parameters = inspect.signature(JobSubmissionClient._do_request).parameters
    assert parameters["kwargs"].kind is inspect.Parameter.VAR_KEYWORD
    calls = r"requests\.(?:request|get|post|put|delete|head)\(\n"
    assert len(re.findall(calls, source_of("ray.dashboard.modules.dashboard_sdk"))) == 1
    assert not re.findall(calls, source_of("ray.dashboard.modules.job.sdk"))


def test_the_job_client_gives_up_on_a_silent_server_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begin = time.monotonic()
        with pytest.raises(requests.exceptions.Timeout):
            ray_private.job_client(f"http://127.0.0.1:{silent.getsockname()[1]}", 1.0, 0.2)
        assert_at_most(3, since=begin)


def test_the_messages_that_ray_private_looks_for_occur_in_rays_source() -> None:
    assert f'"{STARTED}.' in source_of("ray.scripts.scripts")
    assert ray_private.NO_AGENT in source_of("ray.dashboard.modules.job.job_head")
    assert "RAY_JOB_CONFIG_JSON_ENV_VAR: json.dumps(" in source_of("ray.dashboard.modules.job.job_supervisor")


def test_ray_still_reads_the_loopback_address_and_the_ports_of_metrics_as_expected() -> None:
    assert services.resolve_ip_for_localhost("10.0.0.1") == "10.0.0.1"
    assert "resolve_ip_for_localhost(" in inspect.getsource(services.canonicalize_bootstrap_address)
    read = source_of("ray.autoscaler._private.constants") + source_of("ray.dashboard.consts")
    assert all(f'env_integer("{name}"' in read for name in list(ray_private.NO_METRICS)[1:])


def test_ray_still_starts_its_services_by_the_functions_that_are_replaced() -> None:
    head, others = inspect.getsource(Node.start_head_processes), inspect.getsource(Node.start_ray_processes)
    assert all(call in head for call in ("self.start_monitor()", "self.start_api_server("))
    assert "self.start_log_monitor()" in others
    # Ray looks it up in its module, so it can be replaced. If it returns an error, the agent loads few modules.
    call = "if ray._private.utils.get_dashboard_dependency_error() is not None:"
    assert f"{call}\n" in source_of("ray._private.services")
    assert 'dashboard_agent_command.append("--minimal")' in source_of("ray._private.services")


def test_the_loggers_of_uploads_exist() -> None:
    for name in ray_private.UPLOAD_LOGGERS:
        module = importlib.import_module(name)
        assert any(isinstance(value, logging.Logger) and value.name == name for value in vars(module).values())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_address")
def test_free_resources_of_all_nodes_are_read_and_a_worker_has_the_expected_title() -> None:
    def own_command() -> list[str]:
        import psutil

        return list(psutil.Process().cmdline())

    def every_node_has_a_free_cpu() -> bool:
        free = ray_private.free_resources()
        assert {*free} == {node["NodeID"] for node in ray.nodes()}  # type: ignore[no-untyped-call]
        return all("CPU" in resources for resources in free.values())

    wait_until(every_node_has_a_free_cpu, "CPUs remained in use, although the tests before have ended")
    task: Any = ray.remote(num_cpus=0)(own_command)
    assert any(ray_private.WORKER_TITLE in word for word in ray.get(task.remote()))


@pytest.mark.slow
def test_a_job_that_runs_or_is_unknown_has_not_ended(ray_address: str) -> None:
    client: Any = ray._private.worker.global_worker
    assert ray.get_runtime_context().get_job_id() in {job.hex() for job in client.gcs_client.get_all_job_info()}
    assert not ray_private.job_has_ended(ray.get_runtime_context().get_job_id(), 4.0)
    assert not ray_private.job_has_ended("ff000000", 4.0)
