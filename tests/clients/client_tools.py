"""Client libraries from PyPI, each set in a folder of its own beside the tools of tests/deploy."""
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "e2e"), str(ROOT / "deploy")]

import pypi_tools  # noqa: E402

pypi_tools.SETS |= {
    "client-openai": ["openai==3.57.0"],
    "client-langchain": ["langchain-openai==1.7.*"],
}
use = pypi_tools.use
