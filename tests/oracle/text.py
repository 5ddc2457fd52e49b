#!/usr/bin/env python3
"""Random Unicode and random conversations: tessera tokenize against transformers."""
import argparse
import gzip
import json
import pathlib
import random
import shutil
import sys
import tempfile

import transformers

import conversations
from command import REFERENCE, ROOT, run

TEMPLATES = sorted((REFERENCE / "chat/templates").glob("*.jinja")) + [
    ROOT / "tests/data/chat/coder-style.jinja"]
# First and last code point, and a weight.
RANGES = [(0x20, 0x7E, 40), (0x09, 0x0D, 4), (0xA0, 0x24F, 8), (0x300, 0x36F, 6), (0x370, 0x5FF, 6),
          (0x600, 0x6FF, 4), (0x900, 0x97F, 4), (0xE00, 0xE7F, 3), (0x1100, 0x11FF, 4),
          (0x2000, 0x206F, 5), (0x20D0, 0x20FF, 1), (0x2100, 0x2BFF, 3), (0x3000, 0x30FF, 6),
          (0x4E00, 0x9FFF, 10), (0xAC00, 0xD7A3, 6), (0xF900, 0xFAFF, 3), (0xFE00, 0xFE0F, 2),
          (0xFF00, 0xFFEF, 3), (0x1D15E, 0x1D164, 1), (0x1F300, 0x1FAFF, 6), (0x2F800, 0x2FA1D, 2),
          (0x00, 0x1F, 1), (0x80, 0x9F, 1), (0xE000, 0xF8FF, 1), (0xE0000, 0xE007F, 1),
          (0x10000, 0x10FFFF, 2)]
SNIPPETS = ["'s", "'LL", "don't", "\r\n", "\n\n\n", "   ", "\t\t", "12345", "³²", "Ⅷ", "<|im_end|>",
            "<think>", "</think>", "<|endoftext|>", "<tool_call>", "<|im_start", "https://a.b/c?d=1",
            "ＦＵＬＬ", "é", "e\u0301", "각", "\u1100\u1161\u11a8", "\u0344", "\ufeff", "\u0085",
            "\u2028", "ﬁ", "👩‍👩‍👧‍👦", "🇩🇪", "İ", "ẞ", "_x_", "a.b", "$5.00", "\u200b\u200d"]


def draw_text(rng):
    weights = [weight for _, _, weight in RANGES]
    parts = []
    for _ in range(rng.choice([1, 3, 10, 40])):
        if rng.random() < 0.4:
            parts.append(rng.choice(SNIPPETS))
            continue
        low, high, _ = rng.choices(RANGES, weights)[0]
        run_length = rng.choice([1, 1, 2, 5])
        parts += [chr(rng.randint(low, high)) for _ in range(run_length)]
    return "".join(c for c in parts if not (len(c) == 1 and 0xD800 <= ord(c) <= 0xDFFF))


def real_tokenizer(folder):
    source = REFERENCE / "tokenizer"
    (folder / "tokenizer.json").write_bytes(
        gzip.decompress((source / "tokenizer.json.gz").read_bytes()))
    shutil.copy(source / "tokenizer_config.json", folder)
    return transformers.PreTrainedTokenizerFast(tokenizer_file=str(folder / "tokenizer.json"))


def split(lines):
    return lines.removesuffix("\n").split("\n")  # splitlines() splits at U+2028, too


def compare_texts(rng, count, folder, tokenizer):
    texts = [draw_text(rng) for _ in range(count)]
    lines = "".join(json.dumps(text) + "\n" for text in texts)
    got = [json.loads(line) for line in split(run("tokenize", folder, "--lines", stdin=lines))]
    expected = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    failures = 0
    for text, ids, wanted in zip(texts, got, expected, strict=True):
        if ids != wanted:
            failures += 1
            print(f"MISMATCH tokens of {text!r}")
    lines = "".join(json.dumps(ids) + "\n" for ids in expected)
    decoded = split(run("tokenize", folder, "--lines", "--decode", stdin=lines))
    for ids, line in zip(expected, decoded, strict=True):
        wanted = tokenizer.decode(ids, skip_special_tokens=False,
                                  clean_up_tokenization_spaces=False)
        if json.loads(line) != wanted:
            failures += 1
            print(f"MISMATCH text of {ids}")
    return failures


def render_both(case, folder, tokenizer, source):
    """The two renderings; None where one refuses."""
    (folder / "messages.json").write_text(json.dumps(case["messages"]))
    command = ["tokenize", folder, "--render", "--messages", folder / "messages.json"]
    if case["tools"] is not None:
        (folder / "tools.json").write_text(json.dumps(case["tools"]))
        command += ["--tools", folder / "tools.json"]
    extra = {}
    if case["enable_thinking"] is not None:
        extra["enable_thinking"] = case["enable_thinking"]
        command.append(f"--enable-thinking={str(case['enable_thinking']).lower()}")
    if not case["add_generation_prompt"]:
        command.append("--no-generation-prompt")
    try:
        ours = run(*command)
    except RuntimeError as error:
        print(f"(refused: {error})")
        ours = None
    try:
        theirs = tokenizer.apply_chat_template(
            case["messages"], tools=case["tools"], chat_template=source, tokenize=False,
            add_generation_prompt=case["add_generation_prompt"], **extra)
    except Exception as error:  # the template's own errors have many types
        print(f"(transformers refused: {error})")
        theirs = None
    return ours, theirs


def compare_chats(rng, count, tokenizer):
    failures = 0
    for template in TEMPLATES:
        source = template.read_text()
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(ROOT / "deploy/models/nano" / file, folder)
            (folder / "chat_template.jinja").write_text(source)
            for _ in range(count):
                case = conversations.draw(rng, draw_text)
                ours, theirs = render_both(case, folder, tokenizer, source)
                if ours != theirs:
                    failures += 1
                    print(f"MISMATCH {template.name} {json.dumps(case)}")
    return failures


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000, help="texts; a tenth as many chats "
                        "for every template")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    rng = random.Random(options.seed)
    transformers.logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        tokenizer = real_tokenizer(folder)
        failures = compare_texts(rng, options.count, folder, tokenizer)
    failures += compare_chats(rng, options.count // 10, tokenizer)
    print(f"{options.count} texts, {options.count // 10} chats for each of {len(TEMPLATES)} "
          f"templates: {failures} mismatches")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
