"""Connect to a Ray cluster, with short and early errors."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lora_bench.errors import LoraBenchError

# If the listener is no head of a cluster, Ray tries 20 times for 40 s each; with these settings it takes 16 s in all.
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
CONNECT_SECONDS = 5.0
# Ray runs its workers at a niceness of 15, behind all else on the machine; here they are the main work.
OF_ITS_OWN = {"RAY_worker_niceness": "0"}


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Connect Ray to a cluster, and disconnect afterwards; None without an address.

    Args:
        address: HOST:PORT; "auto" for the cluster of this machine or of `RAY_ADDRESS`; "local" to start one on this machine,
            which ends with the work.

    Raises:
        LoraBenchError: If Ray is not installed, or no cluster answers there.
    """
    if address is None:
        yield None
        return
    wanted = OF_ITS_OWN if address == "local" else IMPATIENT
    settings = {name: text for name, text in wanted.items() if name not in os.environ}
    term = signal.getsignal(signal.SIGTERM)
    os.environ.update(settings)
    try:
        import ray

        own = not ray.is_initialized()
        if own:
            _knock(address)
            ray.init(address=address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except ImportError:
        raise LoraBenchError("--ray needs Ray: pip install 'lora_bench[ray]'") from None
    except Exception as error:  # Ray raises bare exceptions too, if a cluster starts too slowly
        said = " ".join(str(error).split())
        raise LoraBenchError(
            f"cannot use a Ray cluster at {address!r}; give auto, local, or HOST:PORT: {said}"
        ) from None
    finally:
        for name in settings:
            del os.environ[name]
        if term is not None and threading.current_thread() is threading.main_thread():
            # Ray ends the process at SIGTERM, but the caller may have to finish its work first.
            signal.signal(signal.SIGTERM, term)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _knock(address: str) -> None:
    """Check that a process listens at a HOST:PORT, which is no client address: these errors come earlier than Ray's."""
    if "://" in address:
        raise ValueError("run the command on a node of the cluster; Ray's client addresses are not supported")
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
