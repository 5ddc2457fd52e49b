"""API keys for the tests, made by `tessera keys`."""
import pathlib

import grpc

from harness import pb, run_tessera


class Keys:
    """A key file and its keys."""

    def __init__(self, folder):
        self.path = pathlib.Path(folder) / "keys.yaml"

    def add(self, name, *scopes, tenant="acme"):
        options = [word for scope in scopes for word in ("--scope", scope)]
        done = run_tessera("keys", "add", self.path, "--name", name, "--tenant", tenant, *options)
        key = done.stdout.strip()
        file = self.path.parent / f"{name}.key"
        file.write_text(key + "\n")
        return key


def bearer(key):
    return [("authorization", f"Bearer {key}")]


def code_of(call, *arguments, **options):
    """The status of a call, OK included."""
    try:
        result = call(*arguments, timeout=20, **options)
        if hasattr(result, "code") and not isinstance(result, pb.GenerateResponse):
            list(result)
    except grpc.RpcError as error:
        return error.code().name
    return "OK"
