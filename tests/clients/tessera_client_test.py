"""deploy/clients/python: installed from the tree as a user would, then its cases against real servers.

The cases run in an interpreter of their own, with what pip put into a folder: the client wants newer
libraries than Debian's, which the harness uses.
"""
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unittest

import client_tools

client_tools.pypi_tools.SETS["client-tessera"] = [
    "grpcio==1.82.3", "grpcio-tools==1.82.3", "setuptools==82.0.1"]
LIBRARIES = client_tools.use("client-tessera")
sys.path.remove(str(LIBRARIES))

from harness import ROOT, Server  # noqa: E402

CASES = pathlib.Path(__file__).resolve().parent / "tessera_client_cases.py"


def installed(folder):
    """The client by pip, from a copy of the tree, which pip builds in."""
    tree = folder / "tree"
    shutil.copytree(ROOT / "proto", tree / "proto")
    shutil.copytree(ROOT / "deploy/clients/python", tree / "deploy/clients/python")
    target = folder / "installed"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--root-user-action", "ignore", "--no-deps", "--no-build-isolation", "--no-index",
         "--target", str(target), str(tree / "deploy/clients/python")],
        check=True, env=os.environ | {"PYTHONPATH": str(LIBRARIES)})
    return target


class InstalledTest(unittest.TestCase):
    def test_cases(self):
        with tempfile.TemporaryDirectory() as name, Server() as server, \
                Server("--max-concurrent-requests", 1) as full:
            target = installed(pathlib.Path(name))
            self.assertEqual(list(target.rglob("*_pb2*")), [])
            self.assertTrue((target / "tessera_client/py.typed").exists())
            done = subprocess.run(
                [sys.executable, str(CASES)], timeout=300,
                env=os.environ | {"PYTHONPATH": f"{target}:{LIBRARIES}", "ADDRESS": server.address,
                                  "FULL_ADDRESS": full.address, "ROOT": str(ROOT)})
            self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
