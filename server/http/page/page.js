// The conversation: a list of messages as the API has them, and what is shown of each.
(() => {
  const { element, render } = Markdown;
  const get = (id) => document.getElementById(id);
  const kKeep = "tessera.conversation";
  const kIdeas = ["What is 44 + 9809?", "Explain mixture of experts to a child", "Write a haiku about mosaics"];
  const icon = (path) => {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 24");
    svg.setAttribute("aria-hidden", "true");
    const shape = document.createElementNS("http://www.w3.org/2000/svg", "path");
    shape.setAttribute("d", path);
    svg.append(shape);
    return svg;
  };
  const kIcons = {
    Copy: "M9 9h10v11H9zM5 15V4h10", Edit: "m4 20 1-4L16 5l3 3L8 19zM14 7l3 3",
    Regenerate: "M20 11a8 8 0 1 0-2 6m2 3v-5h-5",
  };
  let messages = [];
  let running = null;  // the AbortController of the answer that comes

  const say = (text) => { get("status").textContent = text; };
  const keep = () => { try { sessionStorage.setItem(kKeep, JSON.stringify(messages)); } catch { /* full, or private mode */ } };

  function act(name, run) {
    const button = element("button", [icon(kIcons[name]), element("span", [name])], { type: "button", class: "quiet" });
    button.addEventListener("click", () => run(button));
    return button;
  }
  async function copy(text, button) {
    const label = button.querySelector("span") || button;
    try { await navigator.clipboard.writeText(text); label.textContent = "Copied"; } catch { label.textContent = "Not allowed"; }
    say(label.textContent);
    setTimeout(() => { label.textContent = "Copy"; }, 1500);
  }

  function showThinking(node, message, isLive) {
    if (!message.reasoning_content) return;
    let box = node.querySelector(".thinking");
    if (!box) {
      box = element("details", [element("summary", [element("span"), element("span", [], { class: "glance" })]),
                                element("div", [], { class: "thoughts" })], { class: "thinking" });
      node.prepend(box);
    }
    const thinks = isLive && !message.content && !message.tool_calls;
    box.classList.toggle("live", thinks);
    const seconds = message.facts?.thought ? ` for ${message.facts.thought.toFixed(1)} s` : "";
    const [label, glance] = box.querySelectorAll("summary span");
    label.textContent = thinks ? "Thinking" : `Thought${seconds}`;
    glance.textContent = thinks ? message.reasoning_content.trim().split("\n").pop().slice(-160) : "";
    const thoughts = box.querySelector(".thoughts");
    const atEnd = thoughts.scrollHeight - thoughts.scrollTop - thoughts.clientHeight < 40;
    thoughts.textContent = message.reasoning_content;
    if (thinks && atEnd) thoughts.scrollTop = thoughts.scrollHeight;
  }

  const pretty = (json) => { try { return JSON.stringify(JSON.parse(json), null, 2); } catch { return json; } };
  function callCard(call, answer) {
    const head = element("header", [icon("m8 8-4 4 4 4m8-8 4 4-4 4M14 5l-4 14"), "Call of ", element("b", [call.function.name])]);
    const card = element("section", [head, element("pre", [pretty(call.function.arguments)], { tabindex: "0" })],
                         { class: "call", "aria-label": `Call of ${call.function.name}` });
    if (answer) {
      const result = element("textarea", [], { rows: "1", placeholder: "What the function returns", "aria-label": "Result of the call", class: "code" });
      const form = element("form", [result, element("button", ["Return"], { class: "send" })]);
      form.addEventListener("submit", (event) => { event.preventDefault(); answer(call, result.value); });
      card.append(form);
    }
    return card;
  }

  function footOf(message, index) {
    const acts = element("span", [], { class: "acts" });
    acts.append(act("Copy", (button) => copy(message.content || pretty(JSON.stringify(message.tool_calls || "")), button)));
    if (message.role === "user") acts.append(act("Edit", () => edit(index)));
    if (message.role === "assistant") acts.append(act("Regenerate", () => regenerate(index)));
    const foot = element("div", [acts], { class: "foot" });
    const facts = message.facts || {};
    if (facts.first !== undefined) foot.append(element("span", [`first token ${(facts.first * 1000).toFixed(0)} ms`]));
    if (facts.rate) foot.append(element("span", [`${facts.rate.toFixed(1)} tokens/s`]));
    if (facts.tokens) foot.append(element("span", [`${facts.tokens} tokens`]));
    if (facts.finish === "length") foot.append(element("span", ["cut off by the limit"]));
    if (facts.finish === "stopped") foot.append(element("span", ["stopped by you"]));
    return foot;
  }

  function fill(node, message, index, isLive = false) {
    node.className = `turn ${message.role}`;
    let text = node.querySelector(":scope > .text");
    if (!text) {
      text = element("div", [], { class: "text" });
      node.append(text);
    }
    showThinking(node, message, isLive);
    if (message.role === "assistant") text.replaceChildren(...render(message.content || ""));
    else text.textContent = message.content;
    text.classList.toggle("caret", isLive);
    for (const old of node.querySelectorAll(":scope > .call, :scope > .foot, :scope > .problem")) old.remove();
    const isOpen = !isLive && index === messages.length - 1;
    for (const call of message.tool_calls || []) node.append(callCard(call, isOpen ? answerCall : null));
    if (message.role === "tool") node.prepend(...(node.querySelector(".foot") ? [] : [element("div", [`Result of ${message.name || "the call"}`], { class: "foot" })]));
    if (message.problem) node.append(element("p", [message.problem], { class: "problem", role: "alert" }));
    if (!isLive && message.role !== "tool") node.append(footOf(message, index));
  }

  function show() {
    get("welcome").hidden = messages.length > 0;
    get("talk").replaceChildren(...messages.map((message, index) => {
      const node = element("article", [], { "aria-label": message.role === "user" ? "You" : message.role === "tool" ? "Result" : "Model" });
      fill(node, message, index);
      return node;
    }));
    get("talk").scrollTop = get("talk").scrollHeight;
    keep();
  }

  // What the API takes back of a message.
  function asSent({ role, content, reasoning_content, tool_calls, tool_call_id, name }) {
    const sent = { role, content };
    if (role === "assistant" && reasoning_content) sent.reasoning_content = reasoning_content;
    if (role === "assistant" && tool_calls) sent.tool_calls = tool_calls;
    if (role === "tool") Object.assign(sent, { tool_call_id, name });
    return sent;
  }

  function take(message, delta) {
    if (delta.content) message.content += delta.content;
    const thought = delta.reasoning_content ?? delta.reasoning;
    if (thought) message.reasoning_content = (message.reasoning_content || "") + thought;
    for (const piece of delta.tool_calls || []) {
      message.tool_calls = message.tool_calls || [];
      const call = message.tool_calls[piece.index] ||= { id: piece.id, type: "function", function: { name: "", arguments: "" } };
      if (piece.function?.name) call.function.name = piece.function.name;
      call.function.arguments += piece.function?.arguments || "";
    }
  }

  async function generate() {
    if (running) return;
    const message = { role: "assistant", content: "", facts: {} };
    const index = messages.length;
    let settings;
    try { settings = Settings.request(); } catch (error) { openSettings(true); say(error.message); return; }
    const system = Settings.system();
    const sent = messages.filter((m) => !m.problem || m.content || m.tool_calls).map(asSent);
    if (system) sent.unshift({ role: "system", content: system });
    messages.push(message);
    const node = element("article", [], { "aria-label": "Model", "aria-busy": "true" });
    get("talk").append(node);
    fill(node, message, index, true);
    running = new AbortController();
    showRunning();
    say("The model answers");
    const begun = performance.now();
    let first = null, painted = 0, frame = 0;
    const paint = () => {
      frame = 0;
      const talk = get("talk");
      const follows = talk.scrollHeight - talk.scrollTop - talk.clientHeight < 90;
      fill(node, message, index, true);
      if (follows) talk.scrollTop = talk.scrollHeight;
      painted += 1;
    };
    try {
      await Server.chat({ messages: sent, stream: true, stream_options: { include_usage: true }, ...settings },
                        Settings.headers(), running.signal, (chunk) => {
        const now = performance.now();
        if (chunk.choices?.length && first === null) { first = now; message.facts.first = (now - begun) / 1000; }
        const choice = chunk.choices?.[0];
        if (choice) take(message, choice.delta || {});
        if (!message.facts.thought && message.reasoning_content && (message.content || message.tool_calls)) message.facts.thought = (now - first) / 1000;
        if (choice?.finish_reason) message.facts.finish = choice.finish_reason;
        if (chunk.usage) {
          message.facts.tokens = chunk.usage.completion_tokens;
          if (message.facts.tokens > 1) message.facts.rate = (message.facts.tokens - 1) / Math.max((now - first) / 1000, 1e-3);
        }
        if (!frame) frame = requestAnimationFrame(paint);
      });
    } catch (error) {
      if (running.signal.aborted) message.facts.finish = "stopped";
      else message.problem = error instanceof TypeError ? "The server cannot be reached." : error.message;
    }
    if (frame) cancelAnimationFrame(frame);
    running = null;
    showRunning();
    if (message.problem && !message.content && !message.tool_calls && !message.reasoning_content) say(message.problem);
    else say(message.facts.finish === "stopped" ? "Stopped" : "The answer is complete");
    show();
  }

  function send(text) {
    if (running || !text.trim()) return;
    dropProblem();
    messages.push({ role: "user", content: text });
    show();
    generate();
  }
  // A failed answer without anything in it is no part of the conversation.
  function dropProblem() {
    const last = messages[messages.length - 1];
    if (last?.role === "assistant" && !last.content && !last.tool_calls) messages.pop();
  }
  function answerCall(call, result) {
    if (running) return;
    messages.push({ role: "tool", content: result, tool_call_id: call.id, name: call.function.name });
    const asked = [...messages].reverse().find((m) => m.tool_calls);
    const open = asked.tool_calls.filter((c) => !messages.some((m) => m.role === "tool" && m.tool_call_id === c.id));
    show();
    if (open.length === 0) return generate();
    for (const next of open) get("talk").lastElementChild.append(callCard(next, answerCall));
  }
  function regenerate(index) {
    if (running) return;
    messages.length = index;
    show();
    generate();
  }
  function edit(index) {
    if (running) return;
    get("prompt").value = messages[index].content;
    messages.length = index;
    show();
    fit();
    get("prompt").focus();
  }

  function showRunning() {
    get("stop").hidden = !running;
    get("send").hidden = Boolean(running);
    get("send").disabled = !get("prompt").value.trim();
  }
  function fit() {
    const prompt = get("prompt");
    prompt.style.height = "auto";
    prompt.style.height = `${prompt.scrollHeight}px`;
    showRunning();
  }
  function openSettings(opens) {
    get("settings").hidden = !opens;
    get("settings-button").setAttribute("aria-expanded", String(opens));
    (opens ? get("system") : get("prompt")).focus();
  }
  function share() {
    const json = JSON.stringify({ model: get("model").dataset.id, created: new Date().toISOString(), messages: messages.map(asSent), settings: Settings.request() }, null, 2);
    const link = element("a", [], { download: "conversation.json" });
    link.href = URL.createObjectURL(new Blob([json], { type: "application/json" }));
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
    say("Saved as conversation.json");
  }
  function theme(next) {
    document.documentElement.dataset.theme = next;
    try { localStorage.setItem("tessera.theme", next); } catch { /* private mode */ }
  }

  async function look() {
    try {
      if (!get("model").dataset.id) {
        const card = await Server.model(Settings.headers());
        get("model").dataset.id = card.id;
        get("model").textContent = card.id;
        get("model").title = `${card.id}: a context of ${card.max_model_len} tokens`;
      }
      const now = await Server.metrics(Settings.headers());
      const number = (value) => (value === undefined ? "–" : value.toLocaleString("en"));
      get("running").textContent = number(now.num_requests_running);
      get("waiting").textContent = number(now.num_requests_waiting);
      const kv = now.kv_cache_usage_ratio ?? now.kv_cache_usage_perc;
      get("kv").textContent = kv === undefined ? "–" : `${(100 * kv).toFixed(kv < 0.1 ? 1 : 0)} %`;
      const steps = (now.step_duration_seconds_count || 0) - (look.steps || 0);
      const seconds = (now.step_duration_seconds_sum || 0) - (look.seconds || 0);
      if (steps > 0) get("step").textContent = `${((1000 * seconds) / steps).toFixed(1)} ms`;
      look.steps = now.step_duration_seconds_count;
      look.seconds = now.step_duration_seconds_sum;
      get("strip").classList.remove("away");
    } catch {
      for (const id of ["running", "waiting", "kv", "step"]) get(id).textContent = "–";
    }
  }

  function init() {
    let kept = null;
    try { kept = localStorage.getItem("tessera.theme"); } catch { kept = null; }
    theme(kept || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
    try { messages = JSON.parse(sessionStorage.getItem(kKeep)) || []; } catch { messages = []; }
    Settings.init();
    get("ideas").append(...kIdeas.map((idea) => {
      const button = element("button", [idea], { type: "button" });
      button.addEventListener("click", () => send(idea));
      return element("li", [button]);
    }));
    const prompt = get("prompt");
    const submit = () => { const text = prompt.value; if (running || !text.trim()) return; prompt.value = ""; fit(); send(text); };
    get("composer").addEventListener("submit", (event) => { event.preventDefault(); submit(); });
    prompt.addEventListener("input", fit);
    prompt.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
    });
    get("stop").addEventListener("click", () => running?.abort());
    get("new").addEventListener("click", () => { running?.abort(); messages = []; show(); prompt.focus(); });
    get("share").addEventListener("click", share);
    get("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
    get("settings-button").addEventListener("click", () => openSettings(get("settings").hidden));
    get("settings-close").addEventListener("click", () => openSettings(false));
    get("talk").addEventListener("click", (event) => {
      const button = event.target.closest("[data-copy]");
      if (button) copy(button.closest("pre").querySelector("code").textContent, button);
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && running) running.abort();
      else if (event.key === "Escape" && !get("settings").hidden) openSettings(false);
      else if (event.altKey && event.code === "KeyN") get("new").click();
      else if (event.altKey && event.code === "KeyS") openSettings(get("settings").hidden);
      else if (event.key === "/" && !/INPUT|TEXTAREA/.test(document.activeElement.tagName)) { event.preventDefault(); prompt.focus(); }
    });
    show();
    fit();
    prompt.focus({ preventScroll: true });
    look();
    setInterval(() => { if (!document.hidden) look(); }, 2000);
  }
  init();
})();
