#include "tests/engine/text/tool_call_cases.h"

#include <iterator>

namespace tessera {

const char kCallableTools[] = R"([{"type": "function", "function": {"name": "f", "parameters": {
    "properties": {"s": {"type": "string"}, "i": {"type": "integer"}, "n": {"type": "number"},
                   "b": {"type": "boolean"}, "o": {"type": "object"}, "a": {"type": "array"},
                   "m": {"type": ["integer", "null"]}, "u": {"anyOf": [{"type": "integer"},
                   {"type": "string"}]}, "r": {"$ref": "#/$defs/Limit~1x"},
                   "l": {"allOf": [{"$ref": "#/properties/i"}]}, "e": {"enum": [1, 2]},
                   "p": {"properties": {}}, "t": {"items": {}}, "c": {"$ref": "#/$defs/Circle"},
                   "y": {"type": "integer", "nullable": true}, "unknown": {}},
    "$defs": {"Limit/x": {"type": "integer"},
              "Circle": {"anyOf": [{"$ref": "#/$defs/Circle"}, {"$ref": "#/$defs/Circle"}]}}}}}])";

namespace {

using Case = ToolCallCase;

constexpr ToolCallFormat kHermes = ToolCallFormat::kHermes;
constexpr ToolCallFormat kCoder = ToolCallFormat::kCoderXml;

std::string Hermes(const std::string& json) { return "<tool_call>\n" + json + "\n</tool_call>"; }
std::string HermesArguments(const std::string& arguments) {
  return Hermes("{\"name\": \"f\", \"arguments\": " + arguments + "}");
}
std::string Coder(const std::string& body) {
  return "<tool_call>\n<function=f>\n" + body + "</function>\n</tool_call>";
}
std::string Parameter(const std::string& key, const std::string& value) {
  return "<parameter=" + key + ">\n" + value + "\n</parameter>\n";
}

// What the formats' descriptions say, and what is no call.
std::vector<Case> PlainCases() {
  const std::string f = HermesArguments("{\"a\": 1}");
  return {
      {kHermes, "just text\n", "just text\n", {}},
      {kHermes, "", "", {}},
      {kHermes, f, "", {{"f", "{\"a\": 1}"}}},
      {kHermes, "Let me see.\n" + f, "Let me see.", {{"f", "{\"a\": 1}"}}},
      {kHermes, f + "\n" + f + "\n", "", {{"f", "{\"a\": 1}"}, {"f", "{\"a\": 1}"}}},
      {kHermes, f + "\ndone ", "\ndone ", {{"f", "{\"a\": 1}"}}},
      {kHermes,
       "<tool_call>{\"arguments\":{\"x\":\"é\\u00e9\"},\"name\":\"g\"}</tool_call>",
       "",
       {{"g", "{\"x\":\"é\\u00e9\"}"}}},
      {kHermes,
       HermesArguments(R"({"t": "</tool_call>"})"),
       "",
       {{"f", R"({"t": "</tool_call>"})"}}},
      // As typed, whatever the order of the keys; nested names are no names.
      {kHermes,
       R"(<tool_call>{"id": 1.5e3, "arguments":{ "name" : [ {"name":"x"} ] }, "name": "f"}</tool_call>)",
       "",
       {{"f", R"({ "name" : [ {"name":"x"} ] })"}}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"e": "\"}\\", "p": "\ud83d\ude00"}, "arguments": 1}</tool_call>)",
       "",
       {{"f", R"({"e": "\"}\\", "p": "\ud83d\ude00"})"}}},
      // Never became a call.
      {kHermes,
       "<tool_call>{bad}</tool_call> and\n" + f,
       "<tool_call>{bad}</tool_call> and",
       {{"f", "{\"a\": 1}"}}},
      {kHermes,
       R"(<tool_call>{"name": "f, x</tool_call> z)",
       R"(<tool_call>{"name": "f, x</tool_call> z)",
       {}},
      {kHermes,
       Hermes(R"({"name": "", "arguments": {}})"),
       Hermes(R"({"name": "", "arguments": {}})"),
       {}},
      {kHermes, Hermes(R"({"arguments": {}})"), Hermes(R"({"arguments": {}})"), {}},
      {kHermes, HermesArguments("\"[1]\""), HermesArguments("\"[1]\""), {}},
      {kHermes, HermesArguments("[1]"), HermesArguments("[1]"), {}},
      {kHermes, HermesArguments("7"), HermesArguments("7"), {}},
      {kHermes, R"(<tool_call>{"name": "f", "argum)", R"(<tool_call>{"name": "f", "argum)", {}},
      {kHermes, "a <tool_cal", "a <tool_cal", {}},
      {kHermes, "a <tool_call", "a <tool_call", {}},
      {kHermes, "a <tool_call> ", "a <tool_call> ", {}},
      {kHermes, "x < y <tool <tool_call> <", "x < y <tool <tool_call> <", {}},
      {kHermes, "use <tool_call> and </tool_call>.", "use <tool_call> and </tool_call>.", {}},
      {kHermes, "a <function=f></function>", "a <function=f></function>", {}},
      // Broke off: what was reported stays, the rest is content.
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": "b)", "", {{"f", R"({"a": "b)"}}, 1},
      {kHermes, HermesArguments("{\"a\": nil}"), "nil}}\n</tool_call>", {{"f", R"({"a": )"}}, 1},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": </tool_call>)",
       "",
       {{"f", R"({"a": )"}},
       1},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": 1)",
       "",
       {{"f", R"({"a": 1)"}},
       1,
       TextEnd::kCut},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": [)",
       "",
       {{"f", R"({"a": [)"}},
       1,
       TextEnd::kCut},
      {kCoder, Coder(""), "", {{"f", "{}"}}},
      {kCoder,
       "Ok.\n" + Coder(Parameter("s", "1") + Parameter("i", "2") + Parameter("n", "2.50")),
       "Ok.",
       {{"f", R"({"s": "1", "i": 2, "n": 2.5})"}}},
      {kCoder,
       Coder(Parameter("b", "True") + Parameter("o", R"({"k":[1]})") + Parameter("a", "[]")),
       "",
       {{"f", R"({"b": true, "o": {"k": [1]}, "a": []})"}}},
      {kCoder,
       Coder(Parameter("i", "many") + Parameter("m", "null") + Parameter("u", "x")),
       "",
       {{"f", R"({"i": "many", "m": null, "u": "x"})"}}},
      {kCoder,
       Coder("<parameter=s>x</parameter>") + "\n" + Coder(Parameter("s", "y")),
       "",
       {{"f", "{\"s\": \"x\"}"}, {"f", "{\"s\": \"y\"}"}}},
      {kCoder, Coder(Parameter("s", "\"\t\\é\x01")), "", {{"f", R"({"s": "\"\t\\é\u0001"})"}}},
      {kCoder, Coder(Parameter("\xDB", "x")), Coder(Parameter("\xDB", "x")), {}},
      {kCoder,
       Coder(Parameter("s", "x") + Parameter("\xDB", "y")),
       Parameter("\xDB", "y") + "</function>\n</tool_call>",
       {{"f", "{\"s\": \"x\""}},
       1},
      {kCoder,
       Coder(Parameter("s", "x\xFFy")),
       "\xFFy\n</parameter>\n</function>\n</tool_call>",
       {{"f", "{\"s\": \"x"}},
       1},
      {kCoder, "<tool_call>junk</tool_call>!", "<tool_call>junk</tool_call>!", {}},
      {kCoder, "<tool_call><function=f>junk", "<tool_call><function=f>junk", {}},
      {kCoder,
       "<tool_call><function=f><parameter=</function></tool_call>",
       "<tool_call><function=f><parameter=</function></tool_call>",
       {}},
      {kCoder,
       "<tool_call>\n<function=f>\n" + Parameter("s", "x") + "<parameter=i>\n12",
       "",
       {{"f", R"({"s": "x", "i": )"}},
       1,
       TextEnd::kCut},
      {kCoder,
       "<tool_call>\n<function=f>\n" + Parameter("i", "1") + "<parameter=s>\n12\n</par",
       "",
       {{"f", R"({"i": 1, "s": "12)"}},
       1,
       TextEnd::kCut},
      {kCoder,
       "<tool_call>\n<function=f>\n" + Parameter("s", "x"),
       "",
       {{"f", R"({"s": "x")"}},
       1,
       TextEnd::kCut},
  };
}

// What models write instead.
std::vector<Case> ForgivenHermesCases() {
  const std::vector<std::pair<std::string, std::string>> f = {{"f", "{\"a\": 1}"}};
  const std::string call = R"({"name": "f", "arguments": {"a": 1}})";
  const auto mended = [](const std::string& typed, const std::string& json) {
    return Case{kHermes, HermesArguments(typed), "", {{"f", json}}};
  };
  return {
      // Arguments that are text, or that say nothing.
      mended(R"("{\"a\":1}")", R"({"a":1})"),
      mended("\"{'a': 1}\"", R"({"a": 1})"),
      mended("\"\"", "{}"),
      mended("\" \\n\"", "{}"),
      mended("null", "{}"),
      mended("\"null\"", "{}"),
      mended("None", "{}"),
      {kHermes, Hermes(R"({"name": "f"})"), "", {{"f", "{}"}}},
      {kHermes, Hermes(R"({"name": "f", "parameters": {}})"), "", {{"f", "{}"}}},
      {kHermes, Hermes(R"({"type": "function", "function": )" + call + "}"), "", f},
      {kHermes, Hermes(R"({"function": "f", "arguments": {"a": 1}})"), "", f},
      {kHermes, Hermes(R"({"function": {"name": "f"}, "id": 1})"), "", {{"f", "{}"}}},
      // JSON with faults of one meaning.
      mended("{\"a\": \"b\nc\td\x01\"}", R"({"a": "b\nc\td\u0001"})"),
      mended(R"({"a": "\d\'\q \u12x", "b": "\ud800", "c": "\ude00x"})",
             R"({"a": "\\d'\\q \\u12x", "b": "\ufffd", "c": "\ufffdx"})"),
      mended(R"({'a': 'it\'s "so"', b_1: True, "c": (1, 2,), "d": [None,],})",
             R"({"a": "it's \"so\"", "b_1": true, "c": [1, 2], "d": [null]})"),
      mended(
          R"({"a": TRUE, "b": False, "c": null, "d": +1, "e": 007, "f": .5, "g": -5., "h": 1.e3})",
          R"({"a": true, "b": false, "c": null, "d": 1, "e": 7, "f": 0.5, "g": -5.0, "h": 1.0e3})"),
      mended("{ }", "{ }"),
      mended("{\"a\": 1 , }", "{\"a\": 1  }"),
      // Brackets and tags that are missing, doubled or too many.
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": 1} </tool_call>!)", "!", f},
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": 1}}} </tool_call>!)", "!", f},
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": 1</tool_call>!)", "!", f},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": [1, {"b": 2,</tool_call>)",
       "",
       {{"f", R"({"a": [1, {"b": 2}]})"}}},
      {kHermes, R"(<tool_call>{"name": "f", "arguments": {"a": 1)", "", f},
      {kHermes, "<tool_call>\n" + call, "", f},
      {kHermes, "<tool_call>\n" + call + "\n</tool_c", "", f},
      {kHermes, "<tool_call>\n<tool_call>\n" + call + "\n</tool_call>", "", f},
      {kHermes, "<tool_call>\n" + call + "\n<tool_call>\n" + call, "", {f[0], f[0]}},
      {kHermes,
       R"(<tool_call>{"name": "f", "arguments": {"a": 1}, "x": "</tool_call>", "y": tru</tool_call>!)",
       "tru</tool_call>!", f},
      // Several calls, or a fence, within one pair of tags.
      {kHermes, "<tool_call>\n" + call + "\n" + call + "\n</tool_call>.", ".", {f[0], f[0]}},
      {kHermes, "<tool_call>[" + call + ", " + call + "]</tool_call>.", ".", {f[0], f[0]}},
      {kHermes, "<tool_call>\n```json\n" + call + "\n```\n</tool_call>", "", f},
      {kHermes, "<tool_call>" + call + "\n{\"no\": 1}</tool_call>", "\n{\"no\": 1}</tool_call>", f},
      {kHermes, "<tool_call>" + call + "}, and", "}, and", f},
      {kHermes, "<tool_call>```python\nx = 1", "<tool_call>```python\nx = 1", {}},
      // The other format.
      {kHermes, Coder(Parameter("s", "x")), "", {{"f", R"({"s": "x"})"}}},
      {kCoder, Hermes(call), "", f},
  };
}

std::vector<Case> ForgivenCoderCases() {
  const std::vector<std::pair<std::string, std::string>> x = {{"f", "{\"s\": \"x\"}"}};
  const std::string s = Parameter("s", "x");
  const auto value = [](const std::string& typed, const std::string& json) {
    return Case{kCoder, Coder(Parameter("s", typed)), "", {{"f", "{\"s\": " + json + "}"}}};
  };
  return {
      // Values that hold tags.
      value("\na\n</tool_call>\nb\n", R"("\na\n</tool_call>\nb\n")"),
      value("ends with </parameter> here", R"("ends with </parameter> here")"),
      value("</parameter></x>", R"("</parameter></x>")"),
      value("a </function> b </function", R"("a </function> b </function")"),
      value("<parameter=other> is none of f's", R"("<parameter=other> is none of f's")"),
      value("a < b <p <parameter", R"("a < b <p <parameter")"),
      {kCoder,
       Coder(s + "and " + Parameter("i", "1")),
       "",
       {{"f", R"({"s": "x\n</parameter>\nand ", "i": 1})"}}},
      {kCoder,
       Coder("<parameter=s>x</parameter>\n</parameter>\n"),
       "",
       {{"f", R"({"s": "x</parameter>"})"}}},
      // Tags that are missing.
      {kCoder, "Look.\n\n<function=f>\n" + s + "</function>\n</tool_call>", "Look.", x},
      {kCoder, "<function=f>\n" + s + "</function>\ndone", "\ndone", x},
      {kCoder,
       "<function=f>\n" + s + "</function>\n<function=f>\n</function>",
       "",
       {x[0], {"f", "{}"}}},
      {kCoder, "a <function=unknown>\n" + s, "a <function=unknown>\n" + s, {}},
      {kCoder, "the <function=f> tag", "the <function=f> tag", {}},
      {kCoder, "<tool_call>\n<function=f>\n</function>", "", {{"f", "{}"}}},
      {kCoder, "<tool_call>\n<function=f>\n" + s + "</tool_call>!", "!", x},
      {kCoder, "<tool_call>\n<function=f>\n" + s, "", x},
      {kCoder, "<tool_call>\n<function=f>\n<parameter=s>\nx\n", "", x},
      {kCoder, "<tool_call>\n<function=f>\n<parameter=s>\nx\n</param", "", x},
      {kCoder, "<tool_call>\n<function=f>\n<parameter=s>\nx\n</tool_call>", "", x},
      {kCoder, "<tool_call>\n<function=f>\n<parameter=s>x\n</function>\n", "", x},
      {kCoder, "<tool_call>\n<function=f>\n" + s + "\n" + Coder(""), "", {x[0], {"f", "{}"}}},
      {kCoder,
       "<tool_call>\n<function=f>\n" + s + "</function>\n<function=f>\n" + s +
           "</function>\n</tool_call>",
       "",
       {x[0], x[0]}},
      {kCoder,
       "<tool_call><function=f><parameter=s>x</function></parameter><parameter=i>\n7</function>\n",
       "",
       {{"f", R"({"s": "x</function>", "i": 7})"}}},
      {kCoder, Coder("<parameter=s>\nx\n<parameter=i>\n7\n"), "", {{"f", R"({"s": "x", "i": 7})"}}},
      {kCoder,
       "<tool_call><function=f></function>\n<tool_call><function=f></function></tool_call>",
       "",
       {{"f", "{}"}, {"f", "{}"}}},
      {kCoder, "<tool_call><function=\"f\">" + s + "</function></tool_call>", "", x},
      {kCoder, "<tool_call><function=f\n" + s + "</function></tool_call>", "", x},
      {kCoder, Coder("<parameter='s'>x</parameter>"), "", x},
      // Values in Python's spelling.
      {kCoder,
       Coder(Parameter("o", "{'x': 1, 'y': True}") + Parameter("b", "TRUE") +
             Parameter("a", "['p', None]") + Parameter("m", "None") + Parameter("i", "3.0")),
       "",
       {{"f", R"({"o": {"x": 1, "y": true}, "b": true, "a": ["p", null], "m": null, "i": 3})"}}},
      {kCoder,
       Coder(Parameter("i", "3.5") + Parameter("n", "+.5") + Parameter("b", "yes")),
       "",
       {{"f", R"({"i": "3.5", "n": 0.5, "b": "yes"})"}}},
      // What the schema says elsewhere.
      {kCoder,
       Coder(Parameter("r", "10") + Parameter("l", "7") + Parameter("e", "2") +
             Parameter("p", R"({"k": 1})") + Parameter("t", "[1]") + Parameter("y", "None")),
       "",
       {{"f", R"({"r": 10, "l": 7, "e": 2, "p": {"k": 1}, "t": [1], "y": null})"}}},
      {kCoder, Coder(Parameter("c", "[]")), "", {{"f", R"({"c": "[]"})"}}},
  };
}

}  // namespace

std::vector<ToolCallCase> ToolCallCases() {
  std::vector<Case> all;
  for (std::vector<Case>& cases :
       std::vector<std::vector<Case>>{PlainCases(), ForgivenHermesCases(), ForgivenCoderCases()}) {
    std::move(cases.begin(), cases.end(), std::back_inserter(all));
  }
  return all;
}

}  // namespace tessera
