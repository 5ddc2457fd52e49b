"""Quantised model folders: those that `tessera quantize` writes, and what the server says of them."""
import json
import pathlib
import tempfile
import unittest

from harness import NANO, Server, run_json, run_tessera

GOLDENS = [json.loads(line) for line in (NANO / "golden.jsonl").read_text().splitlines()]


class QuantizeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.TemporaryDirectory()
        cls.models = {}
        for form in ("int8", "int4", "fp8"):
            cls.models[form] = pathlib.Path(cls.folder.name) / form
            run_tessera("quantize", NANO, cls.models[form], "--format", form)

    @classmethod
    def tearDownClass(cls):
        cls.folder.cleanup()

    def test_the_folder_is_whole(self):
        plain = run_json("check", NANO)
        for form, share in (("int8", 0.56), ("int4", 0.34), ("fp8", 0.56)):
            with self.subTest(form):
                found = run_json("check", self.models[form])
                self.assertTrue(found["ok"], found["errors"])
                self.assertTrue(found["quantization"].startswith("compressed-tensors: "))
                # Embedding and routers stay plain.
                self.assertLess(found["stored_bytes"], share * plain["stored_bytes"])
                self.assertTrue(found["chat_template"])

    def test_answers_are_nearly_those_of_the_plain_model(self):
        for form, least in (("int8", 0.97), ("int4", 0.8), ("fp8", 0.95)):
            with self.subTest(form):
                same = total = 0
                for golden in GOLDENS[:8]:
                    ids = golden["prompt_ids"] + golden["greedy"]
                    scored = run_json("score", self.models[form], "--dtype", "float32",
                                      "--token-ids", ",".join(map(str, ids)))
                    first = len(golden["prompt_ids"]) - 1
                    for place, token in enumerate(golden["greedy"]):
                        same += scored["argmax"][first + place] == token
                        total += 1
                self.assertGreaterEqual(same / total, least)

    def test_what_is_refused(self):
        again = run_tessera("quantize", self.models["int8"], self.models["int8"] / "x",
                            check=False)
        self.assertEqual(again.returncode, 1)
        self.assertIn("is quantised already (compressed-tensors: int8", again.stderr)
        full = run_tessera("quantize", NANO, self.models["int8"], check=False)
        self.assertEqual(full.returncode, 1)
        self.assertIn("is not empty", full.stderr)
        wrong = run_tessera("quantize", NANO, "out", "--format", "int3", check=False)
        self.assertEqual(wrong.returncode, 2)

    def test_the_server_says_how_weights_are_kept(self):
        with Server("--backend", "cpu", model=self.models["int4"]) as server:
            self.assertIn('tessera_weights_info{activations="full",kept="codes",'
                          'stored="compressed-tensors: int4 in groups of 32"}',
                          server.metrics())


if __name__ == "__main__":
    unittest.main()
