#!/usr/bin/env python3
"""Every field of the public API says what it is: a comment on its line or right above it."""
import pathlib
import re
import sys

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "proto/tessera/v1"
PUBLIC = ("inference.proto", "error_details.proto")
FIELD = re.compile(r"^\s+(?:optional |repeated )?(?:map<[^>]+>|[\w.]+) (\w+) = \d+\b[^;]*;(.*)$")


def main():
    fields, bare = 0, []
    for name in PUBLIC:
        above = ""
        for number, line in enumerate((FOLDER / name).read_text().splitlines(), 1):
            field = FIELD.match(line)
            if field:
                fields += 1
                if not above.strip().startswith("//") and "//" not in field[2]:
                    bare.append(f"{name}:{number}: field {field[1]} has no comment")
            above = line
    print("\n".join(bare + [f"proto comments: {fields} fields, {len(bare)} without"]))
    return 1 if bare else 0


if __name__ == "__main__":
    sys.exit(main())
