"""The way to a Ray cluster: what is said, and how soon, where there is none."""

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

# Where whoever listens is no head of a cluster, Ray tries 20 times, 40 s each; with these it is 16 s in all.
IMPATIENT = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
CONNECT_SECONDS = 5.0
# Ray lets its workers wait for all else on the machine, by a niceness of 15; those of this command are what it is there for.
OF_ITS_OWN = {"RAY_worker_niceness": "0"}


@contextmanager
def connected(address: str) -> Iterator[Any]:
    """Ray, connected to a cluster that is let go of afterwards.

    Args:
        address: HOST:PORT; "auto" for the one of this machine, or that `RAY_ADDRESS` names; "local" begins one on this
            machine, which ends with the work.

    Raises:
        LoraBenchError: If Ray is not installed, or no cluster answers there.
    """
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
    except Exception as error:  # Ray raises bare ones too, where a cluster does not begin in time
        said = " ".join(str(error).split())
        raise LoraBenchError(
            f"cannot use a Ray cluster at {address!r}; give auto, local, or HOST:PORT: {said}"
        ) from None
    finally:
        for name in settings:
            del os.environ[name]
        if term is not None and threading.current_thread() is threading.main_thread():
            # Ray ends the process at SIGTERM; whoever called may have to finish something first.
            signal.signal(signal.SIGTERM, term)
    try:
        yield ray
    finally:
        if own:
            ray.shutdown()


def _knock(address: str) -> None:
    """See that somebody listens at a HOST:PORT, which is said sooner and shorter here than by Ray.

    Raises:
        OSError: If nobody does.
        ValueError: If the address is one of Ray's clients.
    """
    if "://" in address:
        raise ValueError("the command is to run on a node of the cluster, and is no client from elsewhere")
    host, _, port = address.rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
