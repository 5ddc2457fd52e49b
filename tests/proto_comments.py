#!/usr/bin/env python3
"""Every field of the public API says what it is: a comment on its line or right above it."""
import pathlib
import re
import sys

PROTO = pathlib.Path(__file__).resolve().parent.parent / "proto/tessera/v1/inference.proto"
FIELD = re.compile(r"^\s+(?:optional |repeated )?[\w.<>, ]+ (\w+) = \d+;(.*)$")


def main():
    lines = PROTO.read_text().splitlines()
    fields, bare = 0, []
    for number, line in enumerate(lines, 1):
        field = FIELD.match(line)
        if not field:
            continue
        fields += 1
        above = lines[number - 2].strip()
        if not above.startswith("//") and "//" not in field[2]:
            bare.append(f"{PROTO.name}:{number}: field {field[1]} has no comment")
    print("\n".join(bare + [f"proto comments: {fields} fields, {len(bare)} without"]))
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
