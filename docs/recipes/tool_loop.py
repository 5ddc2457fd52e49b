"""A model that calls functions of this program until it has an answer.

    python3 tool_loop.py "Start a 5 minute timer."

`strict` holds every call to the schema of its function, so arguments need no check of their types.
What a function raises goes back to the model as its result. The number of rounds is bounded: a model
may call for ever.
"""
import json
import sys

from ask_model import chat, user


def set_timer(minutes):
    return {"status": "started", "minutes": minutes}


def send_message(to, text):
    return {"status": "sent"}


def tool(function, description, **parameters):
    return {"type": "function",
            "function": {"name": function.__name__, "description": description, "strict": True,
                         "parameters": {"type": "object", "required": list(parameters),
                                        "properties": parameters,
                                        "additionalProperties": False}}}


FUNCTIONS = {function.__name__: function for function in (set_timer, send_message)}
TOOLS = [tool(set_timer, "Start a timer.", minutes={"type": "integer"}),
         tool(send_message, "Send a text message to a person.", to={"type": "string"},
              text={"type": "string"})]


def call(function):
    try:
        return FUNCTIONS[function["name"]](**json.loads(function["arguments"]))
    except Exception as error:  # whatever it is, the model may know better next time
        return {"error": f"{type(error).__name__}: {error}"}


def run(question, rounds=8):
    """{"text", "calls"}; RuntimeError after too many rounds."""
    messages, calls = [user(question)], []
    for _ in range(rounds):
        message = chat(messages, tools=TOOLS, temperature=0, max_tokens=500,
                       reasoning_effort="none")["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            return {"text": message["content"], "calls": calls}
        for wanted in message["tool_calls"]:
            result = call(wanted["function"])
            calls.append({**wanted["function"], "result": result})
            messages.append({"role": "tool", "tool_call_id": wanted["id"],
                             "content": json.dumps(result)})
    raise RuntimeError(f"no answer after {rounds} rounds of calls")


if __name__ == "__main__":
    print(json.dumps(run(" ".join(sys.argv[1:])), ensure_ascii=False))
