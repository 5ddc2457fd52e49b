#!/usr/bin/env python3
"""Greedy and seeded tokens of nano are the same in one, two and four processes."""
import sys

from process_group import Layout, run

STEPS = 48
LAYOUTS = [
    Layout(2, tp=2),
    Layout(2, tp=4),
    Layout(4, tp=4),
    Layout(2, tp=2, dp=2, ep=True),
    Layout(4, tp=2, dp=2, ep=True),
    Layout(4, tp=1, dp=4, ep=True),
    Layout(4, tp=2, dp=4, ep=True),
]


def main():
    expected = {}
    for layout in LAYOUTS:
        if layout.dp not in expected:
            expected[layout.dp] = run(Layout(1, tp=1, dp=layout.dp), STEPS)
            assert len(expected[layout.dp]) == 2 * layout.dp
        tokens = run(layout, STEPS)
        assert tokens == expected[layout.dp], f"{layout}:\n{tokens}\ninstead of\n{expected[layout.dp]}"
        print(f"ok: {layout}", flush=True)
    texts = {line.split(maxsplit=3)[3] for lines in expected.values() for line in lines}
    assert len(texts) == 8, "the texts of different prompts must differ"


if __name__ == "__main__":
    sys.exit(main())
