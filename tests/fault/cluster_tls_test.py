#!/usr/bin/env python3
"""Mutual TLS between the nodes of a group, with certificates made by the openssl command."""
import os
import pathlib
import subprocess
import sys
import tempfile

from served_cluster import Process, Supervised
import harness
from harness import grpc
import hostile_client as hostile
from hostile_port_test import tokens, version

LAYOUT = ["--tensor-parallel-size", 2, "--data-parallel-size", 2, "--dtype", "float32",
          "--threads", 1]


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, f"openssl {arguments}: {done.stderr}"


class Authority:
    """A CA that signs certificates of nodes."""

    def __init__(self, folder, name):
        self.folder = pathlib.Path(folder)
        self.certificate, self.key = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                "-keyout", self.key, "-out", self.certificate, "-subj", f"/CN={name}", "-days", 2)

    def sign(self, name, days=2, host="IP:127.0.0.1"):
        """Flags of a node that trusts this CA and has a certificate of it."""
        key, request, certificate, extension = (
            self.folder / f"{name}.{ending}" for ending in ("key", "csr", "pem", "ext"))
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout",
                key, "-out", request, "-subj", f"/CN={name}")
        extension.write_text(f"subjectAltName={host}\n")
        openssl("x509", "-req", "-in", request, "-CA", self.certificate, "-CAkey", self.key,
                "-CAcreateserial", "-days", days, "-extfile", extension, "-out", certificate)
        return ["--cluster-tls-ca", self.certificate, "--cluster-tls-cert", certificate,
                "--cluster-tls-key", key]


def expect_refused(group, what, flags, reason):
    worker = group.cluster.worker(*flags, "--join-timeout", 1.5)
    code = worker.wait(30)
    assert code == 1 and reason in worker.errors(), f"{what}: {code}\n{worker.errors()}"
    assert group.head.process.poll() is None, group.report()
    print(f"ok: refused: {what}", flush=True)


def expect_stranger_refused(group, authority):
    """A client that trusts the head and knows the cluster key, but has no certificate."""
    credentials = grpc.ssl_channel_credentials(authority.certificate.read_bytes())
    channel = grpc.secure_channel(group.cluster.address, credentials)
    call = hostile.pb_grpc.ClusterControlStub(channel).Connect(
        iter([hostile.pb.Frame(body=hostile.hello(version()).SerializeToString())]), timeout=20)
    try:
        next(call)
        raise AssertionError("a client without a certificate got an answer")
    except grpc.RpcError as error:
        assert error.code() == grpc.StatusCode.UNAVAILABLE, error
    channel.close()
    print("ok: refused: a client without a certificate", flush=True)


def test_head_with_tls(folder, expected):
    ours, theirs = Authority(folder, "ours"), Authority(folder, "theirs")
    good = ours.sign("node-1")
    stranger = theirs.sign("stranger")
    group = Supervised(folder, LAYOUT, 2, flags=ours.sign("head"))
    try:
        group.start_head()
        assert group.head.wait_for("waiting for", 60), group.report()
        expect_refused(group, "a certificate of another CA",
                       [*good[:2], *stranger[2:]], "cannot join the group")
        expect_refused(group, "a node that trusts another CA", [*stranger[:2], *good[2:]],
                       "certificate verify failed")
        expect_refused(group, "an expired certificate", ours.sign("late", days=-1),
                       "cannot join the group")
        expect_refused(group, "a node without TLS", [], "cannot join the group")
        expect_refused(group, "a missing file", [*good[:2], *good[4:]], "cluster TLS certificate")
        expect_refused(group, "another's private key", [*good[:5], ours.sign("other")[5]],
                       "cannot join the group")
        expect_stranger_refused(group, ours)
        quiet = group.head.errors()
        group.workers.append(group.cluster.worker(*good))
        assert tokens(group.wait_ready()) == expected, group.report()
        group.head.process.terminate()
        assert group.head.wait(20) == 0 and group.workers[-1].wait(10) == 0, group.report()
        assert len(quiet.splitlines()) < 10, f"the log of the head:\n{quiet}"
    finally:
        group.end()
    print("ok: a group over mutual TLS writes the same tokens", flush=True)


def test_head_that_nodes_refuse(folder):
    ours = Authority(folder, "root")
    good = ours.sign("node-2")
    for what, flags, reason in (
            ("a head with an expired certificate", ours.sign("old-head", days=-1),
             "certificate verify failed"),
            ("a head with the name of another host", ours.sign("other-host", host="IP:10.9.8.7"),
             "Peer name 127.0.0.1 is not in peer certificate")):
        group = Supervised(folder, LAYOUT, 2, flags=flags)
        try:
            group.start_head()
            assert group.head.wait_for("waiting for", 60), group.report()
            expect_refused(group, what, good, reason)
        finally:
            group.end()
    head = Process("serve", harness.NANO, *LAYOUT, "--nodes", 2, "--cluster-address", "127.0.0.1:0",
                   "--cluster-key-file", group.cluster.key, *good[:4], "--cluster-tls-key",
                   os.devnull, "--http-port", 0, "--metrics-port", 0)
    assert head.wait(30) == 1 and "cluster TLS key" in head.errors(), head.errors()
    head.end()
    print("ok: a head without its key does not start", flush=True)


def main():
    with tempfile.TemporaryDirectory() as folder:
        with harness.Server("--dtype", "float32", "--threads", 1) as alone:
            expected = tokens(alone.stub)
        test_head_with_tls(folder, expected)
        test_head_that_nodes_refuse(folder)


if __name__ == "__main__":
    sys.exit(main())
