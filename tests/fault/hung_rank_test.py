#!/usr/bin/env python3
"""A rank that hangs while the ranks of a process share its threads: --step-timeout ends the process
whether the rank sits on the engine's thread or on another one. The thread is stopped from outside,
as a debugger does it; the others run on."""
import ctypes
import os
import pathlib
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "e2e"))
from harness import BIN, NANO, Server, pb, read_until_unavailable  # noqa: E402

LIMIT = 2.0  # --step-timeout
GRACE = 1.0  # of the watchdog
SLACK = 5.0  # of a busy machine
SKIPPED = 77
# A long prompt in chunks that take the ref backend long: a busy thread is inside a step, always
# but for some microseconds.
FLAGS = ["--backend", "ref", "--dtype", "float32", "--max-num-batched-tokens", 128,
         "--step-timeout", LIMIT]
PROMPT = [3 + i * 37 % 900 for i in range(4000)]
LAYOUT = ["--tensor-parallel-size", 4, "--threads", 2]  # two carriers, where there are two cores
ONE_CARRIER = ["--tensor-parallel-size", 4, "--threads", 1]

PTRACE_SEIZE, PTRACE_INTERRUPT = 0x4206, 0x4207
WALL = 0x40000000
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]


def stop_thread(pid, tid):
    """Until this process ends, or the other one."""
    for request in (PTRACE_SEIZE, PTRACE_INTERRUPT):
        if libc.ptrace(request, tid, None, None) != 0:
            print(f"skipped: no ptrace here: {os.strerror(ctypes.get_errno())}")
            os._exit(SKIPPED)
    os.waitpid(tid, WALL)
    # Its end has to be taken notice of, too, or the process would not be seen to end.
    if tid == pid:
        return
    threading.Thread(target=os.waitpid, args=(tid, WALL), daemon=True).start()


def busy_threads(pid):
    """The threads that worked most in the last moment, most first."""
    def times():
        result = {}
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
            result[int(task.name)] = int(fields[11]) + int(fields[12])
        return result
    before = times()
    time.sleep(1)
    spent = {tid: now - before.get(tid, now) for tid, now in times().items()}
    return sorted(spent, key=spent.get, reverse=True)


def status_of(url):
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None  # it has ended


class Health(threading.Thread):
    """What /healthz says from now on: (seconds, status), until the server has gone."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.url = f"http://127.0.0.1:{port}/healthz"
        self.seen = []
        self.begun = time.monotonic()
        self.start()

    def run(self):
        while not self.seen or self.seen[-1][1] is not None:
            status = status_of(self.url)
            self.seen.append((time.monotonic() - self.begun, status))
            time.sleep(0.05)


def test_server(which, index):
    """`index`: of the two threads with ranks. The first was started to load the model; the engine's
    thread is younger."""
    with Server(*LAYOUT, *FLAGS, expect_exit=1) as server:
        request = pb.GenerateRequest()
        request.token_ids.ids.extend(PROMPT)
        stream = server.stub.StreamGenerate(request, timeout=30)
        time.sleep(0.2)
        thread = sorted(busy_threads(server.process.pid)[:2])[index]
        health = Health(server.metrics_port)
        since = time.monotonic()
        stop_thread(server.process.pid, thread)
        error = read_until_unavailable(stream)
        ended = time.monotonic() - since
        assert "a rank hangs" in error.details(), error
        assert ended <= LIMIT + GRACE + SLACK, f"the stream ended after {ended} s"
        code = server.process.wait(LIMIT + GRACE + 10)
        exited = time.monotonic() - since
        assert code == 1, code
        health.join(10)
        statuses = [status for _, status in health.seen]
        assert statuses[0] == 200 and 503 in statuses, health.seen
        assert 200 not in statuses[statuses.index(503):], health.seen
        assert all(s != 200 for seconds, s in health.seen if seconds > LIMIT + SLACK), health.seen
    print(f"ok: {which}: stream ended after {ended:.2f} s, process after {exited:.2f} s",
          flush=True)


def test_command(name, *arguments, steps_on_main_thread=False):
    command = [BIN, name, *map(str, [*arguments, *ONE_CARRIER, *FLAGS])]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        time.sleep(1)  # it loads the model
        thread = busy_threads(process.pid)[0]
        while (thread == process.pid) != steps_on_main_thread:
            thread = busy_threads(process.pid)[0]
        since = time.monotonic()
        stop_thread(process.pid, thread)
        out, errors = process.communicate(timeout=LIMIT + GRACE + 10)
    finally:
        process.kill()
    assert process.returncode == 1, (process.returncode, out, errors)
    assert "a rank hangs" in errors, errors
    print(f"ok: {name} ended after {time.monotonic() - since:.2f} s", flush=True)


def main():
    if len(os.sched_getaffinity(0)) > 1:  # else there is one carrier: the engine's thread
        test_server("another thread", 0)
    test_server("the engine's thread", 1)
    ids = ",".join(map(str, PROMPT))
    test_command("generate", NANO, "--token-ids", ids)
    test_command("score", NANO, "--token-ids", ids, steps_on_main_thread=True)
    test_command("bench", "latency", NANO, "--input-len", len(PROMPT),
                 "--output-len", 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
