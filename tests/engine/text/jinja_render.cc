// Renders templates for tests/oracle/jinja.py: one JSON object {"template", "variables"} per line
// in,
// {"text"} or {"error"} out.
#include <iostream>
#include <string>

#include "engine/text/jinja/concat.h"
#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/template.h"
#include "engine/text/jinja/value.h"
#include "server/json_text.h"

namespace tessera {
namespace {

using jinja::Value;

absl::StatusOr<std::string> Render(const std::string& line) {
  const absl::StatusOr<Value> input = jinja::ParseJson(line);
  if (!input.ok()) return input.status();
  const absl::StatusOr<jinja::Template> parsed =
      jinja::Template::Parse(input->Get("template").str());
  if (!parsed.ok()) return parsed.status();
  const absl::StatusOr<jinja::Text> text = parsed->Render(input->Get("variables").dict().Clone());
  if (!text.ok()) return text.status();
  return text->bytes();
}

int Main() {
  for (std::string line; std::getline(std::cin, line);) {
    const absl::StatusOr<std::string> text = Render(line);
    std::cout << (text.ok() ? "{\"text\":" : "{\"error\":")
              << JsonQuoted(text.ok() ? *text : std::string(text.status().message())) << "}"
              << std::endl;
  }
  return 0;
}

}  // namespace
}  // namespace tessera

int main() { return tessera::Main(); }
