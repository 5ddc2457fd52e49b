#!/usr/bin/env python3
"""Finds names that two files define at namespace scope: types, aliases and functions.

Two definitions of one name in one program are undefined behaviour that neither compiler nor linker
has to notice (the rule of one definition), and a reader who searches for the name finds the wrong
one. Overloads of a function are told apart by their parameters; a type and a function never share
a name. What is local to a file (unnamed namespaces, static functions) does not count, nor do
forward declarations and the functions that every program starts with.

  tests/one_definition.py              checks the sources; exits 1 and names every pair
  tests/one_definition.py --self-test  checks the check
"""
import collections
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDERS = ("kernels", "parallel", "engine", "server", "tests")

# Comments, literals (raw ones too) and whole preprocessor lines: nothing in them is code.
NOISE = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | R"(?P<raw>[^(\s]*)\(.*?\)(?P=raw)" | "(?:\\.|[^"\\\n])*"
        | (?<![0-9a-fA-F])'(?:\\.|[^'\\\n])+' | ^[ \t]*\#(?:\\\n|[^\n])*""",
    re.S | re.M | re.X)
ATTRIBUTE = re.compile(r"\[\[.*?\]\]|\balignas\s*\([^()]*\)|\bABSL_\w+(?:\s*\([^()]*\))?")
TYPE = re.compile(
    r"(?:^|\s)(?:struct|class|union|enum(?:\s+(?:class|struct))?)\s+([\w:]+)\s*"
    r"(?:final\s*)?(?::[^:].*)?$", re.S)
ALIAS = re.compile(r"^(?:template\s*<.*>\s*)?using\s+(\w+)\s*=", re.S)
NAME = r"(?:[\w~]+\s*(?:<[^<>]*>)?::\s*)*(?:operator\s*[^\s(]+|~?\w+)\s*"
FUNCTION = re.compile(NAME + r"\((?P<parameters>.*)\)[^()]*$", re.S)
MACRO = re.compile(r"[A-Z][A-Z0-9_]*")  # a namespace of another name in every compilation
NAMESPACE = re.compile(r"^(?:inline\s+)?namespace(?:\s+([\w:]+))?$")

Definition = collections.namedtuple("Definition", "kind name key line")


def blank(match):
    """Space of the same lines, so that positions keep their line."""
    return re.sub(r"[^\n]", " ", match.group())


def matching_brace(text, begin):
    depth = 0
    for match in re.finditer(r"[{}]", text[begin:]):
        depth += 1 if match.group() == "{" else -1
        if depth == 0:
            return begin + match.start()
    return len(text)


def without_templates(text):
    """Parameter lists and arguments in angle brackets removed."""
    before = None
    while before != text:
        before, text = text, re.sub(r"<[^<>()]*>", " ", text)
    return text


def parameter_types(text):
    """Types of a parameter list as a key: without names and default arguments."""
    types, depth, part = [], 0, ""
    for character in text + ",":
        if character in "(<[{":
            depth += 1
        elif character in ")>]}":
            depth -= 1
        if character == "," and depth == 0:
            words = re.sub(r"=.*$", "", part, flags=re.S).split()
            # "const Type& name": a last word that follows another one is the parameter's name.
            if len(words) > 1 and re.fullmatch(r"\w+", words[-1]) and words[-1] != "const":
                words = words[:-1]
            types.append(re.sub(r"\s*([&*<>,:])\s*", r"\1", " ".join(words)))
            part = ""
        else:
            part += character
    return ",".join(types)


def function_of(head):
    """(name, parameters) when the text before a body belongs to a function."""
    head = re.sub(r"\)\s*:\s*(?!:).*$", ")", head, flags=re.S)  # a constructor's initialisers
    head = re.sub(r"->.*$", "", head, flags=re.S)
    match = FUNCTION.search(head)
    if not match:
        return None
    # The parameters are the last balanced parentheses.
    end = match.end("parameters")
    begin, depth = end, 1
    while begin > 0 and depth > 0:
        begin -= 1
        depth += {")": 1, "(": -1}.get(head[begin], 0)
    name = re.search(NAME + "$", head[:begin])
    if not name:
        return None
    return re.sub(r"\s", "", name.group()), parameter_types(head[begin + 1:end])


def definitions(text):
    """Yields what a file defines at namespace scope outside of unnamed namespaces."""
    text = ATTRIBUTE.sub(blank, NOISE.sub(blank, text))
    yield from scan(text, 0, len(text), ())


def scan(text, position, end, scope):
    start = position
    while position < end:
        character = text[position]
        if character == ";":
            yield from statement(text, start, position, scope)
            start = position + 1
        elif character == "{":
            close = matching_brace(text, position)
            head = text[start:position].strip()
            line = text.count("\n", 0, position - len(text[start:position].lstrip()) + 1) + 1
            namespace = NAMESPACE.match(head)
            if namespace:
                names = tuple((namespace[1] or "").split("::"))
                if all(names) and not any(MACRO.fullmatch(name) for name in names):
                    yield from scan(text, position + 1, close, scope + names)
            elif head != "extern":  # "C", which was a literal
                yield from braced(head, line, scope)
            position = close
            if not re.match(r"\s*[;,)]", text[close + 1:close + 80]):
                start = close + 1
        position += 1


def statement(text, start, end, scope):
    alias = ALIAS.match(text[start:end].strip())
    if alias:
        name = "::".join(scope + (alias[1],))
        yield Definition("type", name, name, text.count("\n", 0, end) + 1)


def braced(head, line, scope):
    plain = without_templates(head)
    kind = TYPE.search(plain)
    if kind and "(" not in plain:
        name = "::".join(scope + (kind[1],))
        yield Definition("type", name, name, line)
        return
    is_value = "=" in re.sub(r"operator\s*\S+|\(.*\)", "", plain, flags=re.S)
    if is_value or re.search(r"\bstatic\b", head):
        return
    function = function_of(head)
    if function:
        name = "::".join(scope + (function[0],))
        yield Definition("function", name, f"{name}({function[1]})", line)


ENTRY_POINTS = ("main", "LLVMFuzzerTestOneInput")


def conflicts(files):
    """files: {path: text}. Messages, one for each name that is defined in two files."""
    places = collections.defaultdict(dict)  # key -> {path: line}
    kinds = collections.defaultdict(dict)   # name -> {kind: (path, line)}
    for path, text in files.items():
        for found in definitions(text):
            if found.name in ENTRY_POINTS:
                continue
            places[found.kind, found.key].setdefault(path, found.line)
            kinds[found.name].setdefault(found.kind, (path, found.line))
    for (kind, key), where in sorted(places.items()):
        if len(where) > 1:
            yield f"{kind} {key}: defined in " + " and ".join(f"{p}:{n}" for p, n in where.items())
    for name, by_kind in sorted(kinds.items()):
        if len(by_kind) > 1:
            yield f"{name}: " + " and ".join(f"a {k} in {p}:{n}" for k, (p, n) in by_kind.items())


def sources():
    files = {}
    for folder in FOLDERS:
        for file in sorted((ROOT / folder).rglob("*")):
            if file.suffix in (".h", ".cc", ".cu", ".cuh"):
                files[file.relative_to(ROOT).as_posix()] = file.read_text()
    return files


def self_test():
    def found(*texts):
        return [c for c in conflicts({f"{i}.h": t for i, t in enumerate(texts)})]

    inside = "namespace tessera {\n%s\n}  // namespace tessera\n"
    one = inside % "struct Range {\n  int low;\n};"
    assert found(one, inside % "class Range final : public Base<int> {};"), "two types"
    assert found(one, inside % "template <typename T>\nclass Range {};"), "a template"
    assert found(one, inside % "using Range = int;"), "an alias"
    assert found(one, inside % "template <typename T>\nint Range(const T& t) { return 0; }"), "both"
    assert not found(one, inside % "struct Range;"), "a declaration"
    assert not found(one, inside % "namespace {\nstruct Range {};\n}"), "an unnamed namespace"
    assert not found(one, "namespace other {\nstruct Range {};\n}"), "another namespace"
    assert not found(one, inside % "struct Holder {\n  struct Range {};\n};"), "a nested type"
    assert not found(one, inside % "// struct Range {}\nconst char* kText = \"struct Range {\";")
    assert not found(one, inside % "void Use(struct Range range) {}"), "a parameter"
    f = inside % "inline int Add(int a, int b = 2) { return a + b; }"
    assert found(f, inside % "int Add(int x, int y) {\n  return x;\n}"), "two functions"
    assert not found(f, inside % "int Add(float a, float b) { return 0; }"), "an overload"
    assert not found(f, inside % "int Add(int a, int b);"), "a declaration of a function"
    assert not found(f, inside % "static int Add(int a, int b) { return 0; }"), "a static function"
    m = inside % "A::A(int x) : x_(x), y_{1} {\n  if (x) {\n  }\n}"
    assert found(m, m), "members"
    assert not found(m, inside % "B::A(int x) : x_(x) {}"), "members of another class"
    values = inside % "const int kA[] = {1, 2};"
    assert not found(values, values), "constants"
    isa = "namespace tessera::TESSERA_ISA {\nint Add(int a) { return a; }\n}"
    assert not found(isa, isa), "a namespace with a name of its own in every compilation"
    assert found(inside % "bool operator==(A a, A b) { return true; }",
                 inside % "bool operator==(A x, A y) { return true; }"), "operators"
    assert not found(inside % "bool operator==(A a, A b) { return true; }",
                     inside % "bool operator!=(A x, A y) { return true; }"), "other operators"
    print("one definition: the check finds what it should")


def main():
    if sys.argv[1:] == ["--self-test"]:
        return self_test()
    files = sources()
    found = list(conflicts(files))
    print("\n".join(found), file=sys.stderr) if found else None
    print(f"one definition: {len(files)} files, {len(found)} names defined twice")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
