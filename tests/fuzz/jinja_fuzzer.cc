// Template source, a NUL byte, and the variables as a JSON object. No input may crash, hang or
// leak, and the provenance of the output must be well-formed.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "engine/text/jinja/json_parse.h"
#include "engine/text/jinja/template.h"
#include "kernels/core/status_macros.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tessera::jinja;
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const size_t cut = input.find('\0');
  const auto parsed = Template::Parse(input.substr(0, cut));
  const auto variables =
      ParseJson(cut == std::string_view::npos ? std::string_view("{}") : input.substr(cut + 1));
  if (!parsed.ok()) return 0;
  RenderOptions options;
  options.limits = {.max_steps = 20'000, .max_bytes = 1 << 20, .max_output_bytes = 1 << 18};
  const bool usable = variables.ok() && variables->is_dict();
  const Value empty = Value::MakeDict(Dict());
  const auto text = parsed->Render(usable ? variables->dict() : empty.dict(), options);
  if (!text.ok()) return 0;
  size_t at = 0;
  for (const Span& span : text->untrusted()) {
    TESSERA_CHECK(span.begin < span.end && (at == 0 || span.begin > at));
    at = span.end;
  }
  TESSERA_CHECK(at <= text->size());
  return 0;
}
