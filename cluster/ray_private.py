"""Every use of undocumented parts of Ray. When a new version of Ray changes them, only this file has to change.

`tests/cluster/test_ray_private.py` checks each name against one version of Ray, which it states.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray._raylet
from ray._private import services, utils, worker
from ray._private.accelerators import NvidiaGPUAcceleratorManager
from ray._private.authentication import authentication_token_setup
from ray._private.grpc_utils import init_grpc_channel
from ray._private.node import Node
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR
from ray._private.state import available_resources_per_node
from ray._private.utils import get_num_cpus
from ray._private.worker import get_dashboard_url
from ray.core.generated import gcs_pb2, gcs_service_pb2, gcs_service_pb2_grpc

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

LOOPBACK = "127.0.0.1"
# Ray serves its metrics to everybody. Two of the servers cannot be disabled; with an impossible port they do not start.
NO_METRICS = {"RAY_enable_metrics_collection": "0", "AUTOSCALER_METRIC_PORT": "-1", "DASHBOARD_METRIC_PORT": "-1"}
NO_AGENT = "No available agent"  # in the job server's answer until the head's agent has started
JOB_VARIABLE = RAY_JOB_CONFIG_JSON_ENV_VAR  # in the environment of a process that the job server has started
NODE_ARGUMENT = "--node_id="  # in the command line of a node's main process, with the id of the node
WORKER_TITLE = "ray::"  # in the command line of a process that runs a task
MAX_UNREAD_OPTION = "_generator_backpressure_num_objects"  # at how many unread results a generator pauses
UPLOAD_LOGGERS = (  # they report each upload
    "ray.dashboard.modules.dashboard_sdk",
    "ray._private.runtime_env.working_dir",
    "ray._private.runtime_env.packaging",
)

# Protobuf creates these classes and constants at run time, so they have no types.
ALIVE: Any = gcs_pb2.GcsNodeInfo.ALIVE  # type: ignore[attr-defined]
CheckAliveRequest: Any = gcs_service_pb2.CheckAliveRequest  # type: ignore[attr-defined]
GetAllNodeInfoRequest: Any = gcs_service_pb2.GetAllNodeInfoRequest  # type: ignore[attr-defined]


def start_cluster(folder: Path, **options: Any) -> None:
    """Start a cluster that only this machine can reach and whose files are in the folder, and connect to it."""
    os.environ.update(NO_METRICS)
    with _fewer_services():
        connect("local", include_dashboard=False, _node_ip_address=LOOPBACK, _temp_dir=str(folder), **options)


def connect(address: str, **options: Any) -> None:
    """Connect to a cluster, or start one."""
    with _loopback_unchanged():
        ray.init(address, **options)


@contextlib.contextmanager
def _fewer_services() -> Iterator[None]:
    """Let Ray start only what a cluster of one machine needs.

    It starts no autoscaler and no server of the dashboard, does not forward the workers' output, and its agent loads as
    few modules as if `ray` were installed without `ray[default]`.
    """
    with contextlib.ExitStack() as stack:
        for start in ("start_monitor", "start_api_server", "start_log_monitor"):
            stack.enter_context(_replaced(Node, start, lambda *_, **__: None))
        reason = ImportError("not needed on one machine")
        stack.enter_context(_replaced(utils, "get_dashboard_dependency_error", lambda: reason))
        yield


def _loopback_unchanged() -> contextlib.AbstractContextManager[None]:
    """Let Ray use 127.0.0.1 as it is given, instead of replacing it with this machine's address in the network."""
    return _replaced(services, "resolve_ip_for_localhost", str)


@contextlib.contextmanager
def _replaced(owner: object, name: str, function: Callable[..., Any]) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, function)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextlib.contextmanager
def connection_to_head(address: str) -> Iterator[Any]:
    """Provide the head's node-info service. Its methods raise grpc.RpcError, or AuthenticationError without a token."""
    # The channel sends the token, and uses TLS if RAY_USE_TLS says so. It ignores proxies, as Ray itself does.
    with init_grpc_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        yield gcs_service_pb2_grpc.NodeInfoGcsServiceStub(channel)  # type: ignore[no-untyped-call]


def head_on_this_machine() -> str:
    """Return host:port of the head that runs here. Raises ConnectionError if there is none."""
    with _loopback_unchanged():
        return str(services.canonicalize_bootstrap_address_or_die("auto"))


def token_loader() -> Any:
    """Return Ray's loader of the token. Its `has_token` raises AuthenticationError if the token cannot be read."""
    return ray._raylet.AuthenticationTokenLoader.instance()  # type: ignore[attr-defined]


def enable_token_if_found() -> None:
    authentication_token_setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def this_machine_resources() -> tuple[int, int]:
    """Return the CPUs and GPUs that Ray would find on this machine."""
    return int(get_num_cpus()), NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()


def free_resources() -> dict[str, dict[str, float]]:
    """Return what is free on each live node of the connected cluster, by node id and resource."""
    free: dict[str, dict[str, float]] = available_resources_per_node()  # type: ignore[no-untyped-call]
    return free


def job_has_ended(job: str, seconds: float) -> bool:
    """Return whether the driver of a job has left the connected cluster; False if the head does not answer in time."""
    with contextlib.suppress(Exception):
        client: Any = worker.global_worker
        jobs = client.gcs_client.get_all_job_info(
            job_or_submission_id=job,
            skip_submission_job_info_field=True,
            skip_is_running_tasks_field=True,
            timeout=seconds,
        )
        return any(entry.is_dead for entry in jobs.values())
    return False


def dashboard_address() -> str | None:
    """Return host:port of the connected cluster's dashboard; None if it has none."""
    with contextlib.suppress(Exception):
        return str(get_dashboard_url() or "") or None  # type: ignore[no-untyped-call]
    return None


def job_client(url: str, connect_seconds: float, answer_seconds: float) -> "JobSubmissionClient":
    """Return Ray's client of a job server, with timeouts, since it would otherwise wait for an answer forever."""
    from ray.job_submission import JobSubmissionClient

    class Client(JobSubmissionClient):
        def _do_request(self, *arguments: Any, **options: Any) -> Any:
            return super()._do_request(*arguments, timeout=(connect_seconds, answer_seconds), **options)

    return Client(url)
