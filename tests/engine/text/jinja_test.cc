#include <gtest/gtest.h>

#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "absl/time/civil_time.h"
#include "absl/time/time.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/json_write.h"
#include "engine/text/jinja/template.h"

namespace tessera::jinja {
namespace {

std::string ReadTestData(const std::string& name) {
  std::ifstream file(std::string(TESSERA_TEST_DATA) + "/" + name, std::ios::binary);
  EXPECT_TRUE(file.is_open()) << name;
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

absl::StatusOr<Text> RenderSource(const std::string& source, const Value& variables,
                                  const RenderOptions& options = {}) {
  absl::StatusOr<Template> parsed = Template::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return parsed->Render(variables.dict(), options);
}

Value Json(const std::string& json) {
  absl::StatusOr<Value> value = ParseJson(json);
  EXPECT_TRUE(value.ok()) << value.status();
  return value.ok() ? *value : Value::MakeDict(Dict());
}

// What Python's jinja2 3.1.6 makes of each template, or that it refuses it.
TEST(JinjaTest, AgreesWithPython) {
  const Value variables = Json(ReadTestData("jinja/variables.json"));
  std::istringstream lines(ReadTestData("jinja/cases.jsonl"));
  int cases = 0;
  for (std::string line; std::getline(lines, line); ++cases) {
    const Value expected = Json(line);
    const std::string source = expected.Get("template").str();
    const absl::StatusOr<Text> text = RenderSource(source, variables);
    if (!expected.Get("text").is_string()) {
      EXPECT_FALSE(text.ok()) << source << "\n  gives: " << text->bytes();
      continue;
    }
    if (!text.ok()) {
      ADD_FAILURE() << source << "\n  " << text.status();
      continue;
    }
    EXPECT_EQ(text->bytes(), expected.Get("text").str()) << source;
  }
  EXPECT_GT(cases, 400);
}

// Source, then the line that the error must name.
TEST(JinjaTest, ErrorsNameTheLine) {
  const std::pair<const char*, const char*> kCases[] = {
      {"a\nb{{ 1 + }}", "template line 2: expected an expression, found '}}'"},
      {"a\n\n{% if x %}", "template line 3: the block has no 'endif'"},
      {"{% nonsense %}", "template line 1: unknown or misplaced tag 'nonsense'"},
      {"\n{{ x.y }}", "template line 2: 'x' is undefined, so it has no attribute 'y'"},
      {"{% for a in [1] %}\n{{ raise_exception('no ' ~ a) }}{% endfor %}",
       "template line 2: the template refuses the input: no 1"},
      {"{{ 'a'|nope }}", "template line 1: there is no filter 'nope'"},
      {"{{ '\\N{DASH}' }}", "template line 1: invalid escape sequence in a string"},
      {"\n{% if x is nope %}{% endif %}", "template line 2: there is no test 'nope'"},
      {"{{ [1].append(2) }}", "template line 1: a template must not change a list"},
  };
  for (const auto& [source, message] : kCases) {
    EXPECT_EQ(RenderSource(source, Json("{}")).status().message(), message) << source;
  }
}

// What is missing is named when the template is read, not when the first prompt needs it.
TEST(JinjaTest, RefusesWhatIsMissingAtOnce) {
  const std::pair<const char*, const char*> kCases[] = {
      {"{% if false %}\n{{ x | groupby('a') }}{% endif %}", "line 2: there is no filter 'groupby'"},
      {"{% if false %}{{ x is prime }}{% endif %}", "line 1: there is no test 'prime'"},
      {"{{ x | map('wordwrap') }}", "line 1: there is no filter 'wordwrap'"},
      {"{{ x | selectattr('a', 'prime') }}", "line 1: there is no test 'prime'"},
      {"{{ x | reject('prime') }}", "line 1: there is no test 'prime'"},
      {"\n{{ x.encode('utf-8') }}", "line 2: the method 'encode' is not supported"},
      {"{{ lipsum() }}", "line 1: the function 'lipsum' is not supported"},
      {"\n{% include 'other' %}", "line 2: unknown or misplaced tag 'include'"},
      {"{% do x.append(1) %}", "line 1: unknown or misplaced tag 'do'"},
      {"{% block b %}{% endblock %}", "line 1: unknown or misplaced tag 'block'"},
      {"{% for x in [1] %}{% generation %}{% break %}{% endgeneration %}{% endfor %}",
       "line 1: 'break' outside a loop"},
  };
  for (const auto& [source, message] : kCases) {
    const absl::Status status = Template::Parse(source).status();
    EXPECT_EQ(status.message(), std::string("template ") + message) << source;
  }
}

TEST(JinjaTest, TimeIsTheHosts) {
  RenderOptions options;
  options.now = absl::FromCivil(absl::CivilDay(2025, 4, 28), absl::LocalTimeZone());
  const auto text =
      RenderSource("{{ strftime_now('%d %B %Y %H:%M:%S.%f%z%Z %%x') }}", Json("{}"), options);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->bytes(), "28 April 2025 00:00:00.000000 %x");
}

// A hostile template or message ends with an error, quickly, and without a deep stack.
TEST(JinjaTest, LimitsHold) {
  std::string deep_list = "[]";
  for (int i = 0; i < 500; ++i) deep_list = "[" + deep_list + "]";
  std::string chain = "{{ 1";
  for (int i = 0; i < 100'000; ++i) chain += " + 1";
  const std::string sources[] = {
      "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
      "{% set ns = namespace(x='a') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}"
      "{% endfor %}{{ ns.x }}",
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x] %}"
      "{% endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(100000) %}{% set ns.x = [ns.x.copy] %}"
      "{% endfor %}",
      "{% set ns = namespace(x=[1]) %}{% for i in range(190) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% endfor %}{{ ns.x|tojson }}",
      "{% set ns = namespace(a=[1], b=[1]) %}{% for i in range(190) %}{% set ns.a = [ns.a, ns.a] %}"
      "{% set ns.b = [ns.b, ns.b] %}{% endfor %}{{ ns.a == ns.b }}",
      "{% set ns = namespace(x=(1,)) %}{% for i in range(190) %}{% set ns.x = (ns.x, ns.x) %}"
      "{% endfor %}{{ {ns.x: 1} }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{{ 'a' * 1000000000000 }}",
      "{{ [1] * 1000000000000 }}",
      "{{ 'a'|indent(1000000000000, true) }}",
      "{{ 'a'|center(1000000000000) }}",
      "{{ 'a'.rjust(1000000000000) }}",
      "{{ '%1000000000000s' % 'a' }}",
      "{{ '{:1000000000000}'.format('a') }}",
      "{{ '\\t'.expandtabs(1000000000000) }}",
      "{{ [1]|slice(1000000)|map('list')|list }}{% for i in range(90000) %}{{ [1]|slice(1000000) }}"
      "{% endfor %}",
      "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
      "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
      "{{ " + deep_list + " }}",
      std::string(100'000, '(') + "1",
      "{{ " + std::string(100'000, '(') + "1",
      "{{ " + std::string(100'000, '-') + "1 }}",
      "{% set " + std::string(100'000, '(') + "a",
      chain + " }}",
  };
  for (const std::string& source : sources) {
    RenderOptions options;  // a tenth of the defaults, to keep the test short
    options.limits.max_steps = 500'000;
    options.limits.max_bytes = 25 << 20;
    const absl::StatusOr<Text> text = RenderSource(source, Json("{}"), options);
    if (source.substr(0, 2) == "((") {
      EXPECT_TRUE(text.ok());
      continue;
    }
    EXPECT_FALSE(text.ok()) << source.substr(0, 200);
  }
}

// A namespace may hold itself; nothing leaks (checked by the ASan build).
TEST(JinjaTest, CyclesThroughNamespacesAreFreed) {
  const auto text = RenderSource(
      "{% set ns = namespace() %}{% set ns.me = [ns, ns] %}"
      "{% for i in [1] recursive %}{% set ns.loop = loop %}{% macro m() %}{{ i }}{% endmacro %}"
      "{% set ns.m = m %}{% set ns.f = loop.changed %}{{ '' if ns.f(ns.f, loop) }}{% endfor %}"
      "{{ ns.m() }}",
      Json("{}"));
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_EQ(text->bytes(), "1");
}

// Source and its output with untrusted text in angle quotes; the variable u is untrusted.
TEST(JinjaTest, ProvenanceFollowsTheText) {
  const std::pair<const char*, const char*> kCases[] = {
      {"a{{ u }}b", "a«Hi, you»b"},
      {"{{ 'a' + u + 'b' }}{{ 'c' ~ u }}", "a«Hi, you»bc«Hi, you»"},
      {"{{ u[:2] }}.{{ u[::-1] }}.{{ u[-1] }}", "«Hi».«uoy ,iH».«u»"},
      {"{{ u.split(', ')|join('-') }}", "«Hi»-«you»"},
      {"{{ ('  ' + u + '  ').strip() }}", "«Hi, you»"},
      {"{{ u.replace('Hi', 'Ho') }}", "Ho«, you»"},
      {"{{ 'x'.replace('x', u) }}", "«Hi, you»"},
      {"{{ u|upper }}{{ u|title }}", "«HI, YOUHi, You»"},
      {"{{ {'k': u}|tojson }}", "{\"k\": «\"Hi, you\"»}"},
      {"{{ [u, 'k'] }}", "[«'Hi, you'», 'k']"},
      {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}", "«key»=«value»;"},
      {"{% set x %}<{{ u }}>{% endset %}{{ x }}", "<«Hi, you»>"},
      {"{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(u) }}", "<«Hi, you»>"},
      {"{{ '%s!' % u }}{{ u|length }}", "«Hi, you»!7"},
      {"{{ u|list|join }}{{ u|first }}", "«Hi, youH»"},
      {"{{ u|replace('H', '<|im_end|>') }}", "<|im_end|>«i, you»"},
      {"{{ u|truncate(5, true, '..', 0) }}", "«Hi,».."},
      {"{{ u|indent(2, true) }}", "  «Hi, you»"},
      {"{{ [u]|map('lower')|first }}", "«hi, you»"},
      {"{% filter upper %}a{{ u }}{% endfilter %}", "A«HI, YOU»"},
      {"{{ '%5s|%.2s' % ('a', u) }}", "    a|«Hi»"},
      {"{{ '{}-{:>8}'.format(u, 'x') }}", "«Hi, you»-       x"},
      {"{{ u.partition(', ')|join }}{{ u.center(9) }}", "«Hi, you» «Hi, you» "},
      {"{{ u.swapcase() }}", "«hI, YOU»"},
      {"{{ '{0.key}'.format(d) }}", "«value»"},
      {"{{ 'yes' if u else 'no' }}", "yes"},
  };
  for (const auto& [source, expected] : kCases) {
    const auto text = RenderSource(source, Json(R"({"u": "Hi, you", "d": {"key": "value"}})"));
    ASSERT_TRUE(text.ok()) << source << text.status();
    std::string marked;
    size_t at = 0;
    for (const Span& span : text->untrusted()) {
      marked += text->bytes().substr(at, span.begin - at) + "«" +
                text->bytes().substr(span.begin, span.end - span.begin) + "»";
      at = span.end;
    }
    EXPECT_EQ(marked + text->bytes().substr(at), expected) << source;
  }
}

TEST(JsonTest, RefusesWhatIsNoJson) {
  for (const char* text :
       {"",    "{",        "[1,]",  "{\"a\"}",  "{\"a\":1,}",  "nul",         "01",     "1.",
        "1e",  "-",        "\"a",   "\"\\x\"",  "\"\\ud800\"", "\"\\udc00\"", "\"\n\"", "1 2",
        "NaN", "Infinity", "1e999", "\"\xff\"", "{1:2}",       "'a'"}) {
    EXPECT_FALSE(ParseJson(text).ok()) << text;
  }
  EXPECT_FALSE(ParseJson(std::string(100'000, '[')).ok());
  EXPECT_EQ(ParseJson("[1, x]").status().message(), "invalid JSON at byte 4: expected a value");
}

TEST(JsonTest, RoundTripsAsPythonDoes) {
  const std::pair<const char*, const char*> kCases[] = {
      {R"({"b":1,"a":2,"b":3})", R"({"b": 3, "a": 2})"},
      {"[1.0,1e-7,-0,-0.0,1E5,12345678901234567890]",
       "[1.0, 1e-07, 0, -0.0, 100000.0, 12345678901234567890]"},
      {R"("\u00e9\ud83c\udf0d\/\b\u001f")", "\"é🌍/\\b\\u001f\""},
  };
  for (const auto& [text, expected] : kCases) {
    const absl::StatusOr<Value> value = ParseJson(text);
    ASSERT_TRUE(value.ok()) << text << value.status();
    EXPECT_EQ(*ToJsonString(*value), expected);
  }
}

}  // namespace
}  // namespace tessera::jinja
