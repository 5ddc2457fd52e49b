#include "engine/grammar/structure.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/bit_mask.h"
#include "tests/engine/grammar/byte_tokens.h"

namespace tessera {
namespace {

using grammar::kNowhere;
using grammar::MatchSpace;
using grammar::PlaceId;
using Kind = StructureSpec::Kind;

const TestVocabulary& Vocabulary() {
  static const TestVocabulary vocabulary{
      .words = {"ab",    "{\"",      "\":",
                "\": ",  ", \"",     "true",
                "false", "null",     "12",
                "0.5",   "\"}",      "}]",
                "],",    " the",     "é",
                "x\xC3", "日本",     "\xE6\x97",
                "name",  "\"name",   "[[",
                "\\n",   "\\u00",    "\n\n",
                "  ",    "        ", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
      .tags = {"<tool_call>", "</tool_call>"}};
  return vocabulary;
}

std::shared_ptr<const Structure> Make(Kind kind, std::string text) {
  const auto made = Structure::Compile({.kind = kind, .text = text}, Vocabulary().Tokens());
  EXPECT_TRUE(made.ok()) << text << ": " << made.status();
  return made.ok() ? *made : nullptr;
}

std::string WhyNot(Kind kind, std::string text) {
  const auto made = Structure::Compile({.kind = kind, .text = text}, Vocabulary().Tokens());
  return made.ok() ? "" : std::string(made.status().message());
}

struct Case {
  Kind kind;
  std::string text;
  std::vector<std::string> good;
  std::vector<std::string> bad;
};

const std::vector<Case>& Cases() {
  static const std::vector<Case> cases = {
      {Kind::kRegex, "a+b?", {"a", "aaab"}, {"", "b", "abb"}},
      {Kind::kRegex, "^(yes|no)$", {"yes", "no"}, {"y", "yesno"}},
      {Kind::kRegex, "[^a-z]{2,3}", {"AB", "日本é"}, {"A", "aB", "ABCD"}},
      {Kind::kRegex, "", {""}, {"a"}},
      {Kind::kGbnf,
       "root ::= item (\",\" item){0,2} # three at most\nitem ::= [0-9]+ | \"(\" root \")\"\n",
       {"1", "1,(2,3),4", "((1))"},
       {"1,2,3,4", "(1", "", "1,"}},
      {Kind::kGbnf, "root ::= \"a\" root | \"b\"", {"b", "aaab"}, {"a", "ba"}},
      {Kind::kGbnf, "root ::= <tool_call> \"x\"", {}, {"x"}},
      {Kind::kJsonObject, "", {"{}", "{\"a\": [1, {\"b\": null}]}"}, {"[]", "{\"a\"}", "{", "{} "}},
      {Kind::kJsonSchema,
       "{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}",
       {"\"ab\"", "\"\\u00e9\\ud83d\\ude00é\""},
       {"\"a\"", "\"abcd\"", "\"\\ud83d\\ud83d\""}},
      {Kind::kJsonSchema,
       R"({"contains":{"const":1},"minContains":1,"maxContains":2,"items":{"type":"integer"}})",
       {"[1]", "[2,1,3,1]", "[1,1,2]"},
       {"[]", "[2]", "[1,1,1]", "[1,null]"}},
      {Kind::kJsonSchema,
       R"({"contains":{"type":"null"},"minContains":0,"maxContains":0,"type":"array"})",
       {"[]", "[1,2]"},
       {"[null]", "[1,null]"}},
      {Kind::kJsonSchema,
       R"({"type":"object","allOf":[{"properties":{"a":true}}],"anyOf":[{"properties":{"b":true},
       "required":["b"]},{"patternProperties":{"^c":true}}],"unevaluatedProperties":false})",
       {R"({"a":1,"b":2})", R"({"a":1,"cc":2})", R"({"b":1,"c":2})", "{}"},
       {R"({"d":1})", R"({"a":1,"d":2})"}},
      {Kind::kJsonSchema,
       R"({"type":"object","$defs":{"x":{"properties":{"a":true}}},"$ref":"#/$defs/x","if":
       {"properties":{"k":{"const":1}},"required":["k"]},"then":{"properties":{"b":true}},
       "const":{"k":1,"b":2},"unevaluatedProperties":{"type":"string"}})",
       {R"({"k":1,"b":2})"},
       {R"({"b":2,"k":2})"}},
      {Kind::kJsonSchema,
       R"({"type":"array","anyOf":[{"prefixItems":[{"type":"integer"}]},{"prefixItems":
       [true,{"type":"integer"}]}],"unevaluatedItems":{"type":"null"}})",
       {"[]", "[1,null]", "[\"x\",2]", "[1,2,null]"},
       {"[1,2,3]", "[\"x\",\"y\"]"}},
      {Kind::kJsonSchema,
       R"({"$dynamicAnchor":"node","type":"object","properties":{"n":{"$dynamicRef":"#node"}},
       "additionalProperties":false})",
       {"{}", R"({"n":{"n":{}}})"},
       {R"({"n":1})", R"({"n":{"x":1}})"}},
      {Kind::kJsonSchema,
       "{\"type\":\"integer\",\"minimum\":-3,\"exclusiveMaximum\":12}",
       {"-3", "0", "11", "9"},
       {"-4", "12", "100", "1.5", "01"}},
      {Kind::kJsonSchema,
       "{\"type\":\"number\",\"multipleOf\":0.01,\"maximum\":2.5}",
       {"2.50", "-7", "0.1"},
       {"2.51", "0.001", "3"}},
      {Kind::kJsonSchema,
       "{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"enum\":[\"x\","
       "1]}},\"required\":[\"b\"],\"additionalProperties\":false}",
       {"{\"a\":1,\"b\":\"x\"}", "{ \"b\" : 1 }"},
       {"{\"a\":1}", "{\"b\":2}", "{\"b\":1,\"c\":1}", "{\"b\":1,}"}},
      {Kind::kJsonSchema,
       "{\"properties\":{\"a\":{\"type\":\"integer\"}}}",
       {"{\"a\":1,\"z\":[]}", "{\"b\":2}", "3"},
       {"{\"a\":\"x\"}", "{\"\\u0061\":\"x\"}"}},
      {Kind::kJsonSchema,
       "{\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"next\":{\"$ref\":\"#/$defs/t\"}},"
       "\"additionalProperties\":false}},\"$ref\":\"#/$defs/t\"}",
       {"{}", "{\"next\":{\"next\":{}}}"},
       {"{\"next\":1}"}},
      {Kind::kJsonSchema,
       "{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"minItems\":2,"
       "\"maxItems\":300}",
       {"[true,false]", "[true , true,false]"},
       {"[true]", "[]", "[1,2]"}},
      {Kind::kJsonSchema,
       "{\"oneOf\":[{\"type\":\"integer\"},{\"minimum\":2}]}",
       {"1", "2.5", "\"a\""},
       {"3", "1.5"}},
      {Kind::kJsonSchema,
       "{\"type\":\"string\",\"pattern\":\"^a.c$\",\"maxLength\":3}",
       {"\"abc\"", "\"a\\\"c\"", "\"a日c\""},
       {"\"ac\"", "\"abbc\"", "\"xabc\""}},
      {Kind::kJsonSchema,
       "{\"type\":\"string\",\"format\":\"date\"}",
       {"\"2024-02-29\""},
       {"\"2023-02-29\"", "\"2024-13-01\""}},
  };
  return cases;
}

TEST(StructureTest, AcceptsWhatItShould) {
  for (const Case& c : Cases()) {
    const auto structure = Make(c.kind, c.text);
    ASSERT_NE(structure, nullptr);
    for (const std::string& text : c.good) EXPECT_TRUE(Accepts(*structure, text)) << c.text << text;
    for (const std::string& text : c.bad) EXPECT_FALSE(Accepts(*structure, text)) << c.text << text;
  }
}

// The mask says of every token what stepping over it says, at every place of random walks.
TEST(StructureTest, MasksAreExact) {
  const uint32_t seed = std::random_device()();
  SCOPED_TRACE(seed);
  std::mt19937 random(seed);
  const int32_t vocab = Vocabulary().end_token() + 1;
  for (const Case& c : Cases()) {
    const auto structure = Make(c.kind, c.text);
    MatchSpace& space = *structure->space();
    for (int32_t walk = 0; walk < 12; ++walk) {
      PlaceId place = space.Start(walk % 2 == 1);
      std::string text;
      for (int32_t step = 0; step < 40; ++step) {
        const auto& mask = space.Mask(place);
        std::vector<int32_t> allowed;
        for (int32_t id = 0; id < vocab; ++id) {
          const bool ends = id == Vocabulary().end_token();
          const PlaceId next = ends ? kNowhere : space.StepToken(place, id);
          const bool wanted = ends ? space.accepting(place) : next != kNowhere;
          ASSERT_EQ(IsInMask(mask.tokens->words().data(), id), wanted)
              << c.text << " behind " << text << " token " << id;
          if (!wanted) continue;
          allowed.push_back(id);
          if (!ends) {
            ASSERT_LE(space.distance(next), space.distance(place) + mask.most_added);
          }
        }
        ASSERT_FALSE(allowed.empty()) << c.text << " behind " << text;
        const int32_t token = allowed[random() % allowed.size()];
        if (token == Vocabulary().end_token()) break;
        text += Vocabulary().TextOf(token);
        place = space.StepToken(place, token);
      }
    }
  }
}

// A place is the same place in another space.
TEST(StructureTest, PlacesMoveToFreshSpaces) {
  for (const Case& c : Cases()) {
    const auto structure = Make(c.kind, c.text);
    for (const std::string& text : c.good) {
      auto space = structure->space();
      PlaceId place = space->Start(false);
      for (const char byte : text) {
        place = space->StepToken(place, static_cast<uint8_t>(byte));
        const auto fresh = structure->Renew(space);
        place = fresh->Import(*space, place);
        space = fresh;
      }
      EXPECT_TRUE(space->accepting(place)) << c.text << text;
    }
  }
}

TEST(StructureTest, RefusesWhatItCannotEnforce) {
  EXPECT_TRUE(absl::StrContains(
      WhyNot(Kind::kJsonSchema, "{\"properties\":{\"a\":{\"uniqueItems\":true}}}"),
      "#/properties/a/uniqueItems"));
  EXPECT_NE(WhyNot(Kind::kJsonSchema, "{\"pattern\":\"(?=a)\"}"), "");
  EXPECT_NE(WhyNot(Kind::kJsonSchema, R"({"const":{"a":1},"unevaluatedProperties":false})"), "")
      << "a constant evaluates no members";
  EXPECT_TRUE(
      absl::StrContains(WhyNot(Kind::kJsonSchema, R"({"contains":true,"unevaluatedItems":false})"),
                        "#/unevaluatedItems"));
  EXPECT_NE(WhyNot(Kind::kJsonSchema, "false"), "");
  EXPECT_NE(WhyNot(Kind::kJsonSchema,
                   "{\"type\":\"object\",\"required\":[\"a\"],\"properties\":"
                   "{\"a\":false}}"),
            "");
  EXPECT_NE(WhyNot(Kind::kJsonSchema, "{"), "");
  EXPECT_NE(WhyNot(Kind::kRegex, "(a"), "");
  EXPECT_NE(WhyNot(Kind::kRegex, "(a)\\1"), "");
  EXPECT_NE(WhyNot(Kind::kGbnf, "root ::= root \"a\" | \"b\""), "");
  EXPECT_NE(WhyNot(Kind::kGbnf, "root ::= other"), "");
  EXPECT_NE(WhyNot(Kind::kGbnf, "other ::= \"a\""), "");
  EXPECT_NE(WhyNot(Kind::kGbnf, "root ::= \"a\" root"), "");
}

// Hostile input ends soon, one way or the other.
TEST(StructureTest, HostileInputIsBounded) {
  std::string nested;
  for (int32_t i = 0; i < 60000; ++i) nested += "(";
  std::string refs = "{\"$defs\":{";
  for (int32_t i = 0; i < 30; ++i) {
    refs += "\"d" + std::to_string(i) + "\":{\"anyOf\":[{\"$ref\":\"#/$defs/d" +
            std::to_string(i + 1) + "\"},{\"allOf\":[{\"$ref\":\"#/$defs/d" +
            std::to_string(i + 1) + "\"},{\"minLength\":" + std::to_string(i) + "}]}]},";
  }
  refs += "\"d30\":true},\"$ref\":\"#/$defs/d0\"}";
  const std::vector<StructureSpec> specs = {
      {.kind = Kind::kRegex, .text = nested},
      {.kind = Kind::kRegex, .text = "((((a{1000}){1000}){1000}){1000})"},
      {.kind = Kind::kRegex, .text = "(a|b)*a(a|b){40}"},
      {.kind = Kind::kGbnf, .text = "root ::= " + nested},
      {.kind = Kind::kGbnf, .text = "root ::= root"},
      {.kind = Kind::kJsonSchema, .text = "{\"type\":\"array\",\"minItems\":1099511627776}"},
      {.kind = Kind::kJsonSchema, .text = "{\"$ref\":\"#\"}"},
      {.kind = Kind::kJsonSchema,
       .text = "{\"allOf\":[{\"$ref\":\"#\"}],\"type\":\"array\","
               "\"items\":{\"$ref\":\"#\"},\"minItems\":1}"},
      {.kind = Kind::kJsonSchema, .text = refs},
  };
  for (const StructureSpec& spec : specs) {
    const absl::Time start = absl::Now();
    const auto made = Structure::Compile(spec, Vocabulary().Tokens());
    EXPECT_LT(absl::Now() - start, absl::Seconds(60)) << spec.text.substr(0, 100);
    if (made.ok()) static_cast<void>((*made)->space()->Mask((*made)->space()->Start(false)));
  }
}

}  // namespace
}  // namespace tessera
