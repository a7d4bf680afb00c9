"""Runs a command as several TensorFlow workers on this machine, and watches over them.

When one worker ends with an error the others can only wait for it. So all are stopped; then, as often as was asked, all
are started again, and go on from what they have saved. Needs no TensorFlow itself.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

LAST_LINES = 12  # of a worker's log are shown when it fails,
CPP_LOG = re.compile(r"[IWE]\d{4} |WARNING: All log messages before absl")  # but not what TensorFlow's C++ says.


class WorkerFailed(Exception):
    """A worker ended with an error; the message says which, how, and what it said last."""


def run(command: Sequence[str | Path], workers: int, logs: Path, restarts: int = 0, limit: float | None = None) -> None:
    """Runs `command` in `workers` processes until all have ended well, or stops all of them if one fails.

    Each finds its place and the addresses of all, on 127.0.0.1, in TF_CONFIG; a single worker gets none. The first, the
    chief, prints to our standard output; what the others print, and all of standard error, goes to `<logs>/worker<n>.log`.

    Args:
        restarts: how many times all are started again after one has failed; then `WorkerFailed` is raised.
        limit: seconds that they may run, counted anew after each start; None for no limit.
    """
    logs.mkdir(parents=True, exist_ok=True)
    try:
        _run_once(command, [logs / f"worker{index}.log" for index in range(workers)], limit)
    except WorkerFailed as failure:
        if not restarts:
            raise
        print(f"{failure}\nStarting all workers again; {restarts - 1} restart(s) left after this.", file=sys.stderr, flush=True)
        run(command, workers, logs, restarts - 1, limit)


def _run_once(command, logs, limit):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in logs]  # All at a time, so that ports differ.
    addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
    for each in sockets:
        each.close()
    processes = []
    try:
        for index, log in enumerate(logs):
            processes.append(_start(command, addresses, index, log))
        _watch(processes, logs, limit)
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(command, addresses, index, log):
    environment = {name: value for name, value in os.environ.items() if name != "TF_CONFIG"}
    if len(addresses) > 1:
        place = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        environment["TF_CONFIG"] = json.dumps(place)
        # Each would start as many threads as there are cores.
        environment.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, os.cpu_count() // len(addresses))))
    with log.open("w") as file:
        return subprocess.Popen(command, env=environment, stdout=file if index else None, stderr=file)


def _watch(processes, logs, limit):
    """Waits until all have ended well; `WorkerFailed` if one does not."""
    start = time.monotonic()
    while None in (codes := [process.poll() for process in processes]) or any(codes):
        for index, code in enumerate(codes):
            if code:
                how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}"
                lines = logs[index].read_text(errors="replace").splitlines()
                lines = [line for line in lines if not CPP_LOG.match(line)][-LAST_LINES:]
                said = f"Worker {index} (process {processes[index].pid}) {how}. The end of {logs[index]}:"
                raise WorkerFailed("\n  ".join([said, *lines]))
        if limit is not None and time.monotonic() - start > limit:
            raise WorkerFailed(f"The workers had not ended after {limit:g} seconds.")
        time.sleep(0.05)
