"""Random chat conversations: turns with thoughts, tool calls and their results."""

NAMES = ["get_weather", "search", "f", "größe", "ns.tool-1"]


def draw_value(rng, draw_text, depth=0):
    kind = rng.choice(["text", "int", "float", "bool", "none", "list", "dict"])
    if depth > 2 and kind in ("list", "dict"):
        kind = "text"
    if kind == "text":
        return draw_text(rng)
    if kind == "int":
        return rng.choice([0, -1, 7, 2**31, 2**53 + 1, -(2**63), 12345678901234567890])
    if kind == "float":
        return rng.choice([0.0, -0.0, 1.5, 1e-7, 1e22, 0.1, 123456789.125, 3.0, 1e16])
    if kind == "bool":
        return rng.random() < 0.5
    if kind == "none":
        return None
    size = rng.randint(0, 3)
    if kind == "list":
        return [draw_value(rng, draw_text, depth + 1) for _ in range(size)]
    return {rng.choice(["a", "b", "ключ", "x y", draw_text(rng)]):
            draw_value(rng, draw_text, depth + 1) for _ in range(size)}


def draw_tool(rng, draw_text):
    properties = {}
    for name in rng.sample(["city", "unit", "n", "größe"], rng.randint(0, 3)):
        properties[name] = {"type": rng.choice(["string", "integer", "array"])}
        if rng.random() < 0.5:
            properties[name]["description"] = draw_text(rng)
        if rng.random() < 0.3:
            properties[name]["enum"] = [draw_text(rng), "b"]
        if rng.random() < 0.2:
            properties[name]["default"] = draw_value(rng, draw_text)
    function = {"name": rng.choice(NAMES), "description": draw_text(rng),
                "parameters": {"type": "object", "properties": properties}}
    if rng.random() < 0.5:
        function["parameters"]["required"] = list(properties)
    return {"type": "function", "function": function}


def draw_call(rng, draw_text):
    arguments = {rng.choice(["city", "n", draw_text(rng)]): draw_value(rng, draw_text)
                 for _ in range(rng.randint(0, 3))}
    call = {"name": rng.choice(NAMES), "arguments": arguments}
    return {"type": "function", "function": call} if rng.random() < 0.7 else call


def draw_content(rng, draw_text):
    return rng.choice(["", "\n", "  ", "Hi", draw_text(rng), draw_text(rng) + "\n"])


def draw_assistant(rng, draw_text):
    message = {"role": "assistant", "content": draw_content(rng, draw_text)}
    style = rng.random()
    if style < 0.3:
        message["reasoning_content"] = rng.choice(["", "\n\n", draw_text(rng)])
    elif style < 0.6:
        message["content"] = f"<think>\n{draw_text(rng)}\n</think>\n\n{message['content']}"
    elif style < 0.65:
        message["content"] = f"{draw_text(rng)}</think>{message['content']}"
    if rng.random() < 0.3:
        message["tool_calls"] = [draw_call(rng, draw_text) for _ in range(rng.randint(0, 3))]
    return message


def draw_turn(rng, draw_text):
    turn = [{"role": "user", "content": draw_content(rng, draw_text)}]
    for _ in range(rng.choice([0, 1, 1, 2])):
        turn.append(draw_assistant(rng, draw_text))
        if turn[-1].get("tool_calls"):
            turn += [{"role": "tool", "content": draw_content(rng, draw_text)}
                     for _ in range(rng.randint(1, 3))]
    return turn


def draw(rng, draw_text):
    """Arguments of apply_chat_template."""
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": draw_content(rng, draw_text)})
    for _ in range(rng.randint(1, 4)):
        messages += draw_turn(rng, draw_text)
    if rng.random() < 0.1:
        messages.append({"role": "system", "content": draw_content(rng, draw_text)})
    tools = None
    if rng.random() < 0.5:
        tools = [draw_tool(rng, draw_text) for _ in range(rng.randint(0, 3))]
    return {"messages": messages, "tools": tools,
            "enable_thinking": rng.choice([None, True, False]),
            "add_generation_prompt": rng.random() < 0.8}
