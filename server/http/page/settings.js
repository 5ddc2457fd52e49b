// What the requests of this tab ask for, kept in the browser.
const Settings = (() => {
  const { element } = Markdown;
  const kKey = "tessera.settings";
  const kSampling = [
    ["temperature", "Temperature", 0, 2, 0.05], ["top_p", "Top p", 0.01, 1, 0.01],
    ["top_k", "Top k", -1, 100000, 1], ["min_p", "Min p", 0, 1, 0.01],
    ["presence_penalty", "Presence penalty", -2, 2, 0.1], ["frequency_penalty", "Frequency penalty", -2, 2, 0.1],
    ["repetition_penalty", "Repetition penalty", 0.01, 10, 0.05], ["max_tokens", "Most tokens", 1, 1e9, 1],
    ["seed", "Seed", 0, 9007199254740991, 1], ["stop", "Stop text", null],
  ];
  // Of the slider; the last place is no budget.
  const kBudgets = [0, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, null];
  let values = {};
  try { values = JSON.parse(localStorage.getItem(kKey)) || {}; } catch { values = {}; }

  const get = (id) => document.getElementById(id);
  const save = () => { try { localStorage.setItem(kKey, JSON.stringify(values)); } catch { /* private mode */ } };

  function bind(input, name) {
    input.value = values[name] ?? "";
    input.addEventListener("input", () => {
      if (input.value === "") delete values[name]; else values[name] = input.value;
      save();
      check();
    });
  }

  function parse(name, isRight, problem) {
    const text = (values[name] || "").trim();
    let value = null, said = "";
    try {
      value = text ? JSON.parse(text) : null;
      if (value !== null && !isRight(value)) said = problem;
    } catch (error) { said = `This is not JSON: ${error.message}`; }
    get(`${name}-problem`).textContent = said;
    if (said) throw new Error(`Settings, ${name}: ${said}`);
    return value;
  }
  const readTools = () => parse("tools", Array.isArray, "This must be a list of functions.");
  const readSchema = () => parse("schema", (v) => typeof v === "object" && !Array.isArray(v), "This must be a schema, that is an object.");
  function check() { for (const read of [readTools, readSchema]) try { read(); } catch { /* it is shown */ } }

  function showThinking() {
    const budget = kBudgets[values.budget ?? kBudgets.length - 1];
    get("budget-text").textContent = budget === null ? "none" : budget >= 1024 ? `${budget / 1024}k` : String(budget);
    get("budget").value = String(values.budget ?? kBudgets.length - 1);
    get("budget").disabled = values.think === "off";
    for (const input of document.getElementsByName("think")) input.checked = input.value === (values.think || "auto");
  }

  function init() {
    for (const [name, label, min, max, step] of kSampling) {
      const input = element("input", [], min === null ? { type: "text" } : { type: "number", min, max, step: "any", inputmode: step === 1 ? "numeric" : "decimal" });
      input.placeholder = "model's";
      if (name === "stop") input.placeholder = "none";
      input.dataset.set = name;
      get("sampling").append(element("label", [label, input]));
    }
    for (const input of document.querySelectorAll("[data-set]")) bind(input, input.dataset.set);
    for (const input of document.getElementsByName("think")) {
      input.addEventListener("change", () => { values.think = input.value; save(); showThinking(); });
    }
    get("budget").addEventListener("input", () => { values.budget = Number(get("budget").value); save(); showThinking(); });
    get("key").value = sessionStorage.getItem("tessera.key") || "";
    get("key").addEventListener("input", () => sessionStorage.setItem("tessera.key", get("key").value));
    get("reset").addEventListener("click", () => {
      values = {};
      save();
      for (const input of document.querySelectorAll("[data-set]")) input.value = "";
      showThinking();
      check();
    });
    showThinking();
    check();
  }

  // Members of a request. Throws an Error about what cannot be read.
  function request() {
    const fields = {};
    for (const [name, , min] of kSampling) {
      if (values[name] === undefined) continue;
      fields[name] = min === null ? values[name] : Number(values[name]);
    }
    const tools = readTools(), schema = readSchema();
    if (tools && tools.length > 0) fields.tools = tools;
    if (schema) fields.response_format = { type: "json_schema", json_schema: { name: "answer", schema } };
    if (values.think === "on" || values.think === "off") fields.chat_template_kwargs = { enable_thinking: values.think === "on" };
    const budget = kBudgets[values.budget ?? kBudgets.length - 1];
    if (budget !== null && values.think !== "off") fields.thinking_token_budget = budget;
    return fields;
  }

  return {
    init, request,
    system: () => values.system || "",
    headers: () => (get("key").value ? { authorization: `Bearer ${get("key").value}` } : {}),
  };
})();
