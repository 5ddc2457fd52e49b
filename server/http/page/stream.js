// The server's side: one streamed answer, and the numbers of /metrics.
const Server = (() => {
  async function problemOf(response) {
    try {
      const { error } = await response.json();
      return error.message || `status ${response.status}`;
    } catch {
      return `the server answered with status ${response.status}`;
    }
  }

  // Calls `onChunk` with every chunk of a streamed chat completion. Throws an Error with the
  // server's words. Aborting `signal` ends it, and the server stops at once.
  async function chat(request, headers, signal, onChunk) {
    const response = await fetch("v1/chat/completions", {
      method: "POST", headers: { "content-type": "application/json", ...headers },
      body: JSON.stringify(request), signal,
    });
    if (!response.ok) throw new Error(await problemOf(response));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    while (true) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      const events = text.split("\n\n");
      text = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ") || event === "data: [DONE]") continue;
        const chunk = JSON.parse(event.slice(6));
        if (chunk.error) throw new Error(chunk.error.message);
        onChunk(chunk);
      }
    }
  }

  async function model(headers) {
    const response = await fetch("v1/models", { headers });
    if (!response.ok) throw new Error(await problemOf(response));
    return (await response.json()).data[0];
  }

  // {name without prefix: sum over the series}, whatever the prefix is.
  async function metrics(headers) {
    const response = await fetch("metrics", { headers });
    if (!response.ok) throw new Error(await problemOf(response));
    const sums = {};
    for (const line of (await response.text()).split("\n")) {
      const match = line.match(/^[a-zA-Z0-9]+[_:]([a-z_]+)(?:\{.*\})? ([^ ]+)$/);
      if (match && !line.startsWith("#")) sums[match[1]] = (sums[match[1]] || 0) + Number(match[2]);
    }
    return sums;
  }

  return { chat, model, metrics };
})();
