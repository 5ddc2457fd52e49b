"""JSON schemas against the JSON-Schema-Test-Suite (2020-12) and an independent validator: nothing
invalid is ever accepted, and whatever is drawn at random from a schema is valid."""
import decimal
import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
import tarfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
import pypi_tools  # noqa: E402

TOOLS = pypi_tools.use("schemas")

import jsonschema  # noqa: E402

VERSION = "4.26.0"
ORACLE = os.environ["TESSERA_SCHEMA_ORACLE"]
RIGHT = 1020  # of 1257 at least
DRAWS = 6


def suite():
    """Groups of the suite, which comes with jsonschema's source: (file, schema, tests)."""
    archive = TOOLS.parent / f"jsonschema-{VERSION}.tar.gz"
    if not archive.exists():
        done = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check",
             "--no-deps", "--no-binary", "jsonschema", "--dest", str(TOOLS.parent),
             f"jsonschema=={VERSION}"], capture_output=True, text=True, timeout=600)
        if done.returncode != 0:
            print(f"SKIPPED: pip cannot download jsonschema: {done.stderr.strip()[-500:]}")
            sys.exit(pypi_tools.SKIPPED)
    with tarfile.open(archive) as files:
        for member in sorted(files.getmembers(), key=lambda member: member.name):
            name = member.name.split("/")
            if name[1:4] != ["json", "tests", "draft2020-12"] or len(name) != 5:
                continue
            for group in json.load(files.extractfile(member)):
                yield name[4], group["schema"], group["tests"]


GROUPS = list(suite())


def spellings(value):
    """The same document with its members in other orders: the grammar knows one of them."""
    texts = [json.dumps(value, ensure_ascii=False)]
    if isinstance(value, dict) and 1 < len(value) <= 4:
        texts += [json.dumps(dict(order), ensure_ascii=False)
                  for order in itertools.permutations(value.items())]
    return texts


def exact(text):
    """JSON with decimal numbers: a float is seldom a multiple of 0.01."""
    return json.loads(text, parse_float=decimal.Decimal)


def ask(requests):
    text = "".join(json.dumps(request) + "\n" for request in requests)
    done = subprocess.run([ORACLE], input=text, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")


class SchemaSuiteTest(unittest.TestCase):
    def test_nothing_invalid_is_accepted(self):
        texts = [[spellings(test["data"]) for test in tests] for _, _, tests in GROUPS]
        answers = ask({"schema": json.dumps(schema),
                       "documents": list(itertools.chain.from_iterable(documents))}
                      for (_, schema, _), documents in zip(GROUPS, texts))
        right = refused = 0
        for (file, schema, tests), documents, answer in zip(GROUPS, texts, answers):
            if answer.startswith("refused"):
                refused += len(tests)
                continue
            flags = iter(answer)
            for test, options in zip(tests, documents):
                accepted = "1" in [next(flags) for _ in options]
                self.assertFalse(accepted and not test["valid"], (file, schema, test))
                right += accepted == test["valid"]
        total = sum(len(tests) for _, _, tests in GROUPS)
        print(f"suite: {right} of {total} right, {refused} refused, none accepted wrongly")
        self.assertGreaterEqual(right, RIGHT)

    def test_what_is_drawn_is_valid(self):
        seed = int(os.environ.get("TESSERA_SEED", random.randrange(2**31)))
        print(f"TESSERA_SEED={seed}")
        decimal.getcontext().prec = 1000
        answers = ask({"schema": json.dumps(schema), "draw": [seed + i for i in range(DRAWS)]}
                      for _, schema, _ in GROUPS)
        drawn = 0
        for (file, schema, _), answer in zip(GROUPS, answers):
            if answer.startswith("refused"):
                continue
            for text in json.loads(answer):
                validator = jsonschema.Draft202012Validator(exact(json.dumps(schema)))
                self.assertTrue(validator.is_valid(exact(text)), (file, schema, text))
                drawn += 1
        self.assertGreater(drawn, 1000)


if __name__ == "__main__":
    unittest.main()
