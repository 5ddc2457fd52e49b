"""Random requests, and the same ones as flags of `tessera generate` and `tessera client`."""
import json
import pathlib
import tempfile

from harness import collect, fill_messages, pb, run_json

TEXTS = ["What is 44 + 9809?", "Sort 7, 3, 9.", "What is 3 * 12?", "Reverse abc.", "größe? 你好 👩‍🚀"]
TOOLS = [{"type": "function", "function": {
    "name": "get_weather", "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}}]


def draw(rng, golden):
    """(request, flags that mean the same)."""
    request, flags = pb.GenerateRequest(), []
    kind = rng.choice(["chat", "messages", "prompt", "token-ids"])
    if kind == "chat":
        text = rng.choice(TEXTS)
        request.chat.messages.add(role="user", content=text)
        flags += ["--chat", text]
    elif kind == "messages":
        source = rng.choice(golden)
        fill_messages(request.chat, source["messages"], source["tools"])
        flags += [("--messages", source["messages"])]
        flags += [("--tools", source["tools"])] if source["tools"] else []
    elif kind == "prompt":
        request.text = rng.choice(TEXTS)
        flags += ["--prompt", request.text]
    else:
        request.token_ids.ids.extend(rng.randrange(1000) for _ in range(rng.randint(1, 60)))
        flags += ["--token-ids", ",".join(map(str, request.token_ids.ids))]
    draw_sampling(rng, request, flags)
    draw_stopping(rng, request, flags)
    return request, flags


def draw_sampling(rng, request, flags):
    sampling = request.sampling
    choices = {"temperature": [0, 0, 0.7, 1.5], "top_k": [0, -1, 1, 5, 40], "top_p": [0.5, 0.9, 1],
               "min_p": [0, 0.05], "repetition_penalty": [1, 1.2], "presence_penalty": [0, 1.0],
               "frequency_penalty": [0, -0.5], "seed": [0, 7, -1, 2**63 - 1]}
    for field, values in choices.items():
        if field not in ("temperature", "seed") and rng.random() < 0.5:
            continue
        value = rng.choice(values)
        setattr(sampling, field, value)
        flags.append(f"--{field.replace('_', '-')}={value}")
    if rng.random() < 0.3:
        request.n = rng.choice([2, 3])
        flags.append(f"--n={request.n}")
    for field in ("logprobs", "prompt_logprobs"):
        if rng.random() < 0.3:
            value = rng.choice([0, 1, 5])
            setattr(request.response, field, value)
            flags.append(f"--{field.replace('_', '-')}={value}")


def draw_stopping(rng, request, flags):
    stopping = request.stopping
    stopping.max_tokens = rng.choice([1, 20, 90])
    flags.append(f"--max-tokens={stopping.max_tokens}")
    if rng.random() < 0.3:
        stopping.min_tokens = rng.randint(0, stopping.max_tokens)
        flags.append(f"--min-tokens={stopping.min_tokens}")
    if rng.random() < 0.3:
        stopping.stop.extend(rng.sample(["9", "0=", "\n", "write", "boxes 3"], 2))
        for stop in stopping.stop:
            flags += ["--stop", stop]
    if rng.random() < 0.3:
        stopping.include_stop = True
        flags.append("--include-stop")
    if rng.random() < 0.3:
        stopping.ignore_eos = True
        flags.append("--ignore-eos")


def essence(choice):
    """What must be equal through every door; calls get a new id each time."""
    return {"text": choice.text, "reasoning": choice.reasoning, "ids": list(choice.token_ids),
            "finish": choice.finish.SerializeToString(deterministic=True),
            "calls": [(call.index, call.name, call.arguments) for call in choice.tool_calls],
            "logprobs": [entry.SerializeToString() for entry in choice.logprobs],
            "prompt": [entry.SerializeToString() for entry in choice.prompt_logprobs]}


def streamed(stub, request):
    choices, _ = collect(stub.StreamGenerate(request, timeout=300))
    return {index: essence(choice) for index, choice in choices.items()}


def whole(stub, request):
    reply = stub.Generate(request, timeout=300)
    return {choice.index: essence(choice) for choice in reply.choices}


def by_command(target, flags):
    """Text and ids of every choice from `tessera generate MODEL` or `tessera client ADDRESS`."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = []
        for flag in flags:
            if isinstance(flag, tuple):
                path = pathlib.Path(folder) / f"{flag[0].strip('-')}.json"
                path.write_text(json.dumps(flag[1]))
                flag = [flag[0], path]
            arguments += flag if isinstance(flag, list) else [flag]
        answer = run_json(*target, *arguments)
    return {index: (choice["text"], choice["reasoning"], choice["token_ids"])
            for index, choice in enumerate(answer.get("choices", [answer]))}
