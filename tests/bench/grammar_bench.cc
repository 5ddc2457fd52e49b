// What structures cost on the real Qwen3 vocabulary: compiling, and the mask of every step of
// documents that follow them, the first time and once their places are known. Times are the
// thread's own: a busy machine lets it wait for longer than anything here takes.
#include <time.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "engine/grammar/structure.h"
#include "tests/engine/text/reference_tokenizer.h"

namespace tessera {
namespace {

constexpr int32_t kVocab = 151936;
constexpr int32_t kEnd = 151645;

struct Sample {
  const char* name;
  StructureSpec spec;
  std::string document;
};

std::vector<Sample> Samples() {
  using Kind = StructureSpec::Kind;
  const std::string person =
      R"({"type":"object","properties":{"name":{"type":"string"},"age":{"type":"integer",
      "minimum":0,"maximum":150},"email":{"type":"string","format":"email"},"tags":{"type":"array",
      "items":{"type":"string"}}},"required":["name","age"],"additionalProperties":false})";
  const std::string short_texts =
      R"({"type":"object","properties":{"title":{"type":"string","minLength":3,"maxLength":40},
      "body":{"type":"string","maxLength":2000}},"required":["title","body"]})";
  const std::string events =
      R"({"type":"array","minItems":1,"maxItems":100,"items":{"type":"object","properties":{
      "id":{"type":"string","pattern":"^[a-z]{2}-[0-9]{4}$"},"at":{"type":"string",
      "format":"date-time"},"kind":{"enum":["created","deleted","moved"]},"size":{"type":"number",
      "exclusiveMinimum":0,"multipleOf":0.01}},"required":["id","at","kind"]}})";
  const std::string tree =
      R"({"$defs":{"node":{"type":"object","properties":{"value":{"type":"integer"},"children":{
      "type":"array","items":{"$ref":"#/$defs/node"}}},"required":["value"],
      "additionalProperties":false}},"$ref":"#/$defs/node"})";
  const std::string shapes =
      R"({"oneOf":[{"type":"object","properties":{"kind":{"const":"circle"},"radius":{
      "type":"number"}},"required":["kind","radius"]},{"type":"object","properties":{"kind":{
      "const":"box"},"width":{"type":"number"},"height":{"type":"number"}},"required":["kind",
      "width","height"]}]})";
  return {
      {"object",
       {.kind = Kind::kJsonSchema, .text = person},
       R"({"name": "Ada Lovelace", "age": 36, "email": "ada@example.org", "tags": ["first", "programmer of all"]})"},
      {"maxLength",
       {.kind = Kind::kJsonSchema, .text = short_texts},
       R"({"title": "On engines and their notes", "body": "The engine weaves algebraic patterns just as the loom weaves flowers and leaves. It can do whatever we know how to order it to perform."})"},
      {"patterns",
       {.kind = Kind::kJsonSchema, .text = events},
       R"([{"id": "ab-1234", "at": "2025-11-29T12:00:00Z", "kind": "moved", "size": 12.25}, {"id": "cd-0001", "at": "2024-02-29T23:59:59+01:00", "kind": "created"}])"},
      {"recursive",
       {.kind = Kind::kJsonSchema, .text = tree},
       R"({"value": 1, "children": [{"value": 2, "children": [{"value": 3}, {"value": 4, "children": []}]}, {"value": 5}]})"},
      {"oneOf",
       {.kind = Kind::kJsonSchema, .text = shapes},
       R"({"kind": "box", "width": 2.5, "height": 10})"},
      {"any object",
       {.kind = Kind::kJsonObject},
       R"({"a": {"b": [1, 2, {"c": "text with words", "d": null}], "e": true}, "f": "日本語 and more"})"},
      {"regex",
       {.kind = Kind::kRegex, .text = "([A-Z][a-z]+ ){2,5}[0-9]{3}-[0-9]{4}"},
       "Call Anna Maria 555-1234"},
      {"gbnf",
       {.kind = Kind::kGbnf,
        .text =
            "root ::= expr\nexpr ::= term ([-+*/] term)*\nterm ::= [0-9]+ | \"(\" expr \")\"\n"},
       "(12+3)*(4-(5*6))/7"},
  };
}

absl::Duration ThreadTime() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return absl::DurationFromTimespec(now);
}

double Microseconds(absl::Duration duration) { return absl::ToDoubleMicroseconds(duration); }

void PrintTimes(const char* what, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double share) {
    return times[std::min(times.size() - 1, static_cast<size_t>(share * times.size()))];
  };
  std::printf("  %-12s %5zu masks  p50 %8.1f us  p99 %8.1f us  worst %8.1f us\n", what,
              times.size(), at(0.5), at(0.99), times.back());
}

// False when a token of the document is not in its mask.
bool Walk(grammar::MatchSpace* space, const std::vector<int32_t>& ids, std::vector<double>* masks,
          std::vector<double>* steps) {
  grammar::PlaceId place = space->Start(false);
  for (const int32_t id : ids) {
    const absl::Duration start = ThreadTime();
    static_cast<void>(space->Mask(place));
    const absl::Duration masked = ThreadTime();
    place = space->StepToken(place, id);
    if (place == grammar::kNowhere) return false;
    masks->push_back(Microseconds(masked - start));
    steps->push_back(Microseconds(ThreadTime() - masked));
  }
  return space->accepting(place);
}

int Run() {
  const std::shared_ptr<const Tokenizer> tokenizer = ReferenceTokenizer();
  absl::Duration start = ThreadTime();
  GrammarTokens tokens;
  tokens.vocabulary =
      std::make_shared<const grammar::TokenVocabulary>(grammar::TokenVocabulary::Options{
          .vocab_size = kVocab, .end_token_ids = {kEnd}, .bytes = [&](int32_t id) {
            return tokenizer->IsAdded(id) ? std::string_view() : tokenizer->TokenBytes(id);
          }});
  tokens.find_token = [&](std::string_view text) { return tokenizer->TokenId(text); };
  std::printf("vocabulary: %.0f ms, tries of %zu and %zu nodes, longest token %d bytes\n",
              Microseconds(ThreadTime() - start) / 1000, tokens.vocabulary->plain().nodes().size(),
              tokens.vocabulary->other().nodes().size(), tokens.vocabulary->longest_token());
  std::vector<double> all_cold;
  std::vector<double> all_warm;
  for (const Sample& sample : Samples()) {
    start = ThreadTime();
    const auto structure = Structure::Compile(sample.spec, tokens);
    const double compile = Microseconds(ThreadTime() - start);
    if (!structure.ok()) {
      std::printf("%s: %s\n", sample.name, structure.status().ToString().c_str());
      return 1;
    }
    const auto ids = tokenizer->Encode(sample.document, {});
    std::printf("%s: compiled in %.0f us, %zu tokens\n", sample.name, compile, ids->size());
    const auto space = (*structure)->space();
    std::vector<double> cold;
    std::vector<double> warm;
    std::vector<double> steps;
    if (!Walk(space.get(), *ids, &cold, &steps)) {
      std::printf("  the document is not accepted\n");
      return 1;
    }
    for (int32_t i = 0; i < 20; ++i) Walk(space.get(), *ids, &warm, &steps);
    PrintTimes("first time", cold);
    PrintTimes("known", warm);
    PrintTimes("token", steps);
    all_cold.insert(all_cold.end(), cold.begin(), cold.end());
    all_warm.insert(all_warm.end(), warm.begin(), warm.end());
  }
  std::printf("all:\n");
  PrintTimes("first time", all_cold);
  all_warm.insert(all_warm.end(), all_cold.begin(), all_cold.end());
  PrintTimes("21 answers", all_warm);
  return 0;
}

}  // namespace
}  // namespace tessera

int main() { return tessera::Run(); }
