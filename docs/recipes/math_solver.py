"""Sums with a limit on thinking, and the number out of the answer.

    python3 math_solver.py "What is 44 + 9809?"

`thinking_token_budget` ends the thinking, `min_answer_tokens` keeps room for the answer whatever
max_tokens is. Where the budget cut the thinking, the answer says so and is tried once more with four
times as much.
"""
import json
import re
import sys

from ask_model import chat, user

NUMBER = re.compile(r"-?\d+(?:[.,]\d+)*")


def last_number(text):
    """The number that an answer ends with; None if it has none."""
    boxed = re.findall(r"\\boxed\{([^{}]*)\}", text)
    found = NUMBER.findall(boxed[-1] if boxed else text)
    return found[-1].replace(",", "") if found else None


def solve(question, budget=256, tries=2):
    """{"number", "text", "thinking_cut"}."""
    for left in range(tries, 0, -1):
        choice = chat([user(question)], temperature=0, reasoning_effort="high",
                      thinking_token_budget=budget, min_answer_tokens=32, max_tokens=budget + 128)
        text = choice["message"]["content"]
        was_cut = choice.get("thinking_budget_enforced", False)
        if not was_cut or left == 1:
            return {"number": last_number(text), "text": text, "thinking_cut": was_cut}
        budget *= 4


if __name__ == "__main__":
    print(json.dumps(solve(" ".join(sys.argv[1:]))))
