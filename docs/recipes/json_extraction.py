"""Facts out of a text as JSON of a schema.

    python3 json_extraction.py "Ben, 57, lives in London and works as a farmer."

With `json_schema` the server lets the model write nothing else: the answer parses, has every required
member and no other. What it cannot do is know that the facts are right.
"""
import json
import sys

from ask_model import chat, user

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 60},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "city": {"type": "string", "maxLength": 60},
        "job": {"type": "string", "maxLength": 60},
    },
    "required": ["name", "age", "city", "job"],
    "additionalProperties": False,
}


def extract(text, schema=None):
    schema = schema or SCHEMA
    names = list(schema["properties"])
    asked = f"Extract {', '.join(names[:-1])} and {names[-1]} as JSON: {text}"
    choice = chat([user(asked)], temperature=0, reasoning_effort="none", max_tokens=400,
                  response_format={"type": "json_schema",
                                   "json_schema": {"name": "facts", "schema": schema}})
    return json.loads(choice["message"]["content"])


if __name__ == "__main__":
    print(json.dumps(extract(" ".join(sys.argv[1:])), ensure_ascii=False))
