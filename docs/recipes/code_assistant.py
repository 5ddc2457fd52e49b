"""A function from a description: the code out of the answer, checked, with a stub for its tests.

    python3 code_assistant.py "Write a Python function that adds two numbers."

The code is parsed, never run: run what a model wrote in a sandbox only. What does not parse goes back
to the model with the error.
"""
import ast
import json
import re
import sys

from ask_model import chat, user

FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.S)


def code_of(answer):
    """The fenced code, all blocks joined; the answer itself where there is no fence."""
    blocks = FENCE.findall(answer)
    return "\n\n".join(blocks) if blocks else answer.strip()


def functions(code):
    """Names and parameters of the functions; SyntaxError if it is no Python."""
    return {node.name: [argument.arg for argument in node.args.args]
            for node in ast.parse(code).body if isinstance(node, ast.FunctionDef)}


def test_stub(found):
    """A unittest with a case to fill in for every function."""
    lines = ["import unittest", "", "", "class GeneratedTest(unittest.TestCase):"]
    for name, parameters in found.items():
        lines += [f"    def test_{name}(self):",
                  f"        # self.assertEqual({name}({', '.join(parameters)}), …)",
                  f"        self.skipTest(\"say what {name} returns\")", ""]
    return "\n".join(lines)


def write(description, tries=3):
    """{"code", "functions", "test", "error"}; "error" is None where the code parses."""
    messages = [user(description)]
    for _ in range(tries):
        answer = chat(messages, temperature=0, max_tokens=600, reasoning_effort="auto")["message"]["content"]
        code = code_of(answer)
        try:
            found = functions(code)
        except SyntaxError as error:
            problem = f"line {error.lineno}: {error.msg}"
        else:
            if found:
                return {"code": code, "functions": found, "test": test_stub(found), "error": None}
            problem = "there is no function in it"
        messages += [{"role": "assistant", "content": answer},
                     user(f"That does not work: {problem}. Answer with the code alone.")]
    return {"code": code, "functions": {}, "test": "", "error": problem}


if __name__ == "__main__":
    print(json.dumps(write(" ".join(sys.argv[1:]))))
