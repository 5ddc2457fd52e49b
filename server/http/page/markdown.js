// Text of a model as elements. Every character becomes a text node: nothing is ever parsed as HTML,
// and there are no links.
const Markdown = (() => {
  const element = (tag, children = [], attributes = {}) => {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  };

  // `code`, **bold** and *italic*.
  function inline(text) {
    const nodes = [];
    const pattern = /(`+)([^`]|[^`][\s\S]*?[^`])\1(?!`)|\*\*(?=\S)([\s\S]*?\S)\*\*|(?<![\w*])\*(?=[^\s*])([^*\n]*[^\s*])\*(?![\w*])/g;
    let end = 0;
    for (const match of text.matchAll(pattern)) {
      nodes.push(text.slice(end, match.index));
      end = match.index + match[0].length;
      if (match[2] !== undefined) nodes.push(element("code", [match[2]]));
      else if (match[3] !== undefined) nodes.push(element("strong", inline(match[3])));
      else nodes.push(element("em", inline(match[4])));
    }
    nodes.push(text.slice(end));
    return nodes.filter((node) => node !== "");
  }

  function codeBlock(language, lines) {
    const copy = element("button", ["Copy"], { type: "button", class: "quiet", "data-copy": "" });
    const head = element("div", [element("span", [language || "text"]), copy], { class: "code-head" });
    return element("pre", [head, element("code", [lines.join("\n")])], { tabindex: "0" });
  }

  const kFence = /^ {0,3}(`{3,}|~{3,})\s*([\w+#.-]*)/;
  const kHeading = /^ {0,3}(#{1,6})\s+(.*?)\s*#*$/;
  const kItem = /^( {0,6})([-*+]|\d{1,9}[.)])\s+(.*)$/;

  function list(lines, at) {
    const ordered = /\d/.test(lines[at].match(kItem)[2]);
    const node = element(ordered ? "ol" : "ul");
    if (ordered) node.setAttribute("start", String(parseInt(lines[at].match(kItem)[2], 10)));
    const depth = lines[at].match(kItem)[1].length;
    let item = null;
    while (at < lines.length) {
      const match = lines[at].match(kItem);
      if (match && match[1].length > depth + 1 && item) {
        const inner = list(lines, at);
        item.append(inner.node);
        at = inner.at;
        continue;
      }
      if (match && match[1].length < depth) break;
      if (match && /\d/.test(match[2]) !== ordered) break;
      if (match) {
        item = element("li", inline(match[3]));
        node.append(item);
      } else if (lines[at].trim() === "" || !/^\s/.test(lines[at]) || kFence.test(lines[at])) {
        break;
      } else {
        item.append(" ", ...inline(lines[at].trim()));
      }
      at += 1;
    }
    return { node, at };
  }

  function paragraph(lines) {
    const node = element("p");
    lines.forEach((line, i) => node.append(...(i > 0 ? [element("br")] : []), ...inline(line)));
    return node;
  }

  function render(text) {
    const lines = text.split("\n");
    const nodes = [];
    let at = 0;
    while (at < lines.length) {
      const line = lines[at];
      const fence = line.match(kFence);
      const heading = line.match(kHeading);
      if (fence) {
        let end = at + 1;
        while (end < lines.length && !lines[end].trim().startsWith(fence[1])) end += 1;
        nodes.push(codeBlock(fence[2], lines.slice(at + 1, end)));
        at = end + 1;
      } else if (heading) {
        nodes.push(element(heading[1].length < 3 ? "h3" : "h4", inline(heading[2])));
        at += 1;
      } else if (kItem.test(line)) {
        const found = list(lines, at);
        nodes.push(found.node);
        at = found.at;
      } else if (/^ {0,3}>/.test(line)) {
        const quoted = [];
        while (at < lines.length && /^ {0,3}>/.test(lines[at])) quoted.push(lines[at++].replace(/^ {0,3}> ?/, ""));
        nodes.push(element("blockquote", render(quoted.join("\n"))));
      } else if (line.trim() === "") {
        at += 1;
      } else {
        const begin = at;
        at += 1;
        while (at < lines.length && lines[at].trim() !== "" && !kFence.test(lines[at]) &&
               !kHeading.test(lines[at]) && !kItem.test(lines[at])) at += 1;
        nodes.push(paragraph(lines.slice(begin, at)));
      }
    }
    return nodes;
  }

  return { element, render };
})();
