"""docs/recipes, each as people run it, on the bundled model."""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from harness import BIN, NANO, ROOT, Server

RECIPES = ROOT / "docs/recipes"


class RecipesTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.server = Server("--dtype", "float32").__enter__()
        cls.url = f"http://127.0.0.1:{cls.server.http_port}"
        os.environ["TESSERA_URL"] = cls.url
        sys.path.insert(0, str(RECIPES))

    @classmethod
    def tearDownClass(cls):
        cls.server.__exit__(None, None, None)

    def run_recipe(self, name, *arguments, **environment):
        variables = {**os.environ, "TESSERA_BIN": BIN, **environment}
        done = subprocess.run([sys.executable, RECIPES / f"{name}.py", *map(str, arguments)],
                              capture_output=True, text=True, timeout=120, check=False,
                              env={key: value for key, value in variables.items() if value})
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_all_are_tested(self):
        programs = {path.stem for path in RECIPES.glob("*.py")} - {"ask_model"}
        tested = {name.removeprefix("test_") for name in dir(self) if name.startswith("test_")}
        self.assertLessEqual(programs, tested)
        readme = (RECIPES / "README.md").read_text()
        for program in programs:
            self.assertIn(f"({program}.py)", readme)

    def test_customer_service(self):
        sure = self.run_recipe("customer_service", "What is 44 + 9809?")
        self.assertEqual((sure["text"], sure["handed_over"]), ("9853", False))
        import customer_service
        unsure = customer_service.answer("What is 44 + 9809?", threshold=1.01)
        self.assertEqual((unsure["text"], unsure["handed_over"]),
                         (customer_service.HAND_OVER, True))

    def test_math_solver(self):
        solved = self.run_recipe("math_solver", "What is 44 + 9809?")
        self.assertEqual((solved["number"], solved["thinking_cut"]), ("9853", False))
        import math_solver
        self.assertTrue(math_solver.solve("What is 44 + 9809?", budget=5, tries=1)["thinking_cut"])
        self.assertEqual(math_solver.solve("What is 44 + 9809?", budget=20)["number"], "9853")
        for text, number in (("so 1,234.5", "1234.5"), (r"\boxed{-7} of 8", "-7"), ("none", None),
                             ("3 and 4.", "4")):
            self.assertEqual(math_solver.last_number(text), number)

    def test_code_assistant(self):
        written = self.run_recipe("code_assistant", "Write a Python function add(a, b).")
        self.assertEqual(set(written), {"code", "functions", "test", "error"})
        if written["error"] is None:
            self.assertTrue(written["functions"])
        import code_assistant
        answer = "Here:\n```python\ndef add(a, b):\n    return a + b\n```\nand\n```\nx = 1\n```"
        code = code_assistant.code_of(answer)
        self.assertEqual(code, "def add(a, b):\n    return a + b\n\nx = 1")
        found = code_assistant.functions(code)
        self.assertEqual(found, {"add": ["a", "b"]})
        stub = code_assistant.test_stub(found)
        compile(stub, "stub", "exec")
        self.assertIn("def test_add", stub)
        self.assertEqual(code_assistant.code_of("```py\ncut"), "cut")
        with self.assertRaises(SyntaxError):
            code_assistant.functions("def f(:")

    def test_json_extraction(self):
        self.assertEqual(
            self.run_recipe("json_extraction", "Ben, 57, lives in London and works as a farmer."),
            {"name": "Ben", "age": 57, "city": "London", "job": "farmer"})

    def test_tool_loop(self):
        done = self.run_recipe("tool_loop", "Start a 5 minute timer.")
        self.assertEqual([(call["name"], json.loads(call["arguments"])) for call in done["calls"]],
                         [("set_timer", {"minutes": 5})])
        self.assertTrue(done["text"])
        import tool_loop
        self.assertIn("KeyError", tool_loop.call({"name": "none", "arguments": "{}"})["error"])
        self.assertIn("TypeError", tool_loop.call({"name": "set_timer", "arguments": "{}"})["error"])

    def test_batch_prompts(self):
        with tempfile.TemporaryDirectory() as name:
            prompts = pathlib.Path(name) / "prompts.txt"
            prompts.write_text("What is 44 + 9809?\nHello\n")
            for environment in ({}, {"TESSERA_URL": "", "TESSERA_MODEL": str(NANO)}):
                answers = pathlib.Path(name) / f"answers{len(environment)}.jsonl"
                first = self.run_recipe("batch_prompts", prompts, answers, **environment)
                self.assertEqual(set(first), {"1", "2"})
                self.assertEqual(first["1"], "9853")
                before = answers.read_bytes()
                self.assertEqual(self.run_recipe("batch_prompts", prompts, answers, **environment),
                                 first)
                self.assertEqual(answers.read_bytes(), before)


if __name__ == "__main__":
    unittest.main()
