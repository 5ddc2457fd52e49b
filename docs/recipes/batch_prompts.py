"""Many prompts from a file, a line each, by `tessera batch`.

    python3 batch_prompts.py PROMPTS.txt ANSWERS.jsonl

Start it again after a crash: what is answered stays, the rest is asked. TESSERA_BIN is the program;
without TESSERA_URL the model in the folder TESSERA_MODEL answers, with no server.
"""
import json
import os
import pathlib
import subprocess
import sys


def write_requests(prompts, path):
    """One request per prompt; its custom_id is its number."""
    with open(path, "w", encoding="utf-8") as file:
        for number, prompt in enumerate(prompts, 1):
            file.write(json.dumps({"custom_id": str(number), "temperature": 0, "max_tokens": 300,
                                   "messages": [{"role": "user", "content": prompt}]}) + "\n")


def run(requests, answers):
    """True when every line was answered; others have their error in the file."""
    url = os.environ.get("TESSERA_URL")
    by = ["--server", url] if url else ["--model", os.environ["TESSERA_MODEL"]]
    return subprocess.run([os.environ.get("TESSERA_BIN", "tessera"), "batch", requests, answers, *by],
                          stdout=sys.stderr, check=False).returncode == 0


def texts(answers):
    """{number: text}, in the order of the prompts; None for what failed."""
    found = {}
    with open(answers, encoding="utf-8") as file:
        for line in map(json.loads, file):
            response = line["response"]
            is_good = response is not None and response["status_code"] == 200
            found[int(line["custom_id"])] = (
                response["body"]["choices"][0]["message"]["content"] if is_good else None)
    return dict(sorted(found.items()))


if __name__ == "__main__":
    prompts = pathlib.Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    write_requests(prompts, sys.argv[2] + ".requests")
    is_whole = run(sys.argv[2] + ".requests", sys.argv[2])
    print(json.dumps(texts(sys.argv[2]), ensure_ascii=False))
    sys.exit(0 if is_whole else 1)
