"""Ray's token: who has it may run anything on a cluster. It is never told, only where it is looked for."""

import contextlib
import os
import secrets
from pathlib import Path
from typing import Any

import ray
import ray._raylet
from ray._private.authentication import authentication_token_setup as setup

PLACE = "~/.ray/auth_token"  # the other two are RAY_AUTH_TOKEN, which Ray takes first, and RAY_AUTH_TOKEN_PATH
_loader: Any = ray._raylet.AuthenticationTokenLoader  # type: ignore[attr-defined]


def what_to_set() -> str:
    """For a cluster that refuses what it gets from here. The token itself is never told."""
    take = f"put its token, which `ray get-auth-token` prints on its head, into {PLACE} or RAY_AUTH_TOKEN"
    if os.environ.get("RAY_AUTH_MODE", "").lower() != "token":
        return f"the cluster wants a token, and none is sent; set RAY_AUTH_MODE=token and {take}"
    if os.environ.get("RAY_AUTH_TOKEN"):  # the order in which Ray looks
        return f"the token in RAY_AUTH_TOKEN is not the cluster's; {take}"
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if file and not _token_is_found():
        return f"RAY_AUTH_TOKEN_PATH names {file}, which holds no token or cannot be read; put the cluster's there"
    if not _token_is_found():
        return f"the cluster wants a token, and none is found here; {take}"
    return f"the token in {file or PLACE} is not the cluster's; {take}"


def token_file() -> Path | None:
    """Where it is kept, or would be; None without a home."""
    with contextlib.suppress(RuntimeError):
        return Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or PLACE).expanduser()
    return None


def use_token_if_there_is_one() -> None:
    """As ray.init("auto") does. With an address that is given, Ray leaves it to RAY_AUTH_MODE."""
    setup.maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def ensure_token() -> None:
    """For a cluster that others are to join: a new one is kept where Ray looks for it. RAY_AUTH_MODE=disabled does
    without."""
    before = os.umask(0o077)  # Ray would let others read it
    try:
        setup.enable_token_auth_by_default()
        setup.ensure_token_if_auth_enabled(create_token_if_missing=True)
    finally:
        os.umask(before)


def ensure_own_token() -> None:
    """For a cluster that nobody else is to join. Ray would keep a new one in HOME, which a container may not have."""
    if os.environ.get("RAY_AUTH_MODE", "token").lower() != "token":
        return  # and not even looked for: this process would then ask its workers for a token that they do not send
    if not _token_is_found(ignore_auth_mode=True):
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        _loader.instance().reset_cache()


def _token_is_found(*, ignore_auth_mode: bool = False) -> bool:
    try:
        return bool(_loader.instance().has_token(ignore_auth_mode=ignore_auth_mode))
    except ray.exceptions.AuthenticationError:
        return False
