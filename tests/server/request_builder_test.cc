#include "server/request_builder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "tessera/v1/error_details.pb.h"
#include "tessera/v1/inference.pb.h"
#include "tests/server/fake_model.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

v1::GenerateRequest Request(const std::string& text = "hello") {
  v1::GenerateRequest request;
  request.set_text(text);
  return request;
}

v1::GenerateRequest ChatRequest(const std::string& text = "hello") {
  v1::GenerateRequest request;
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content(text);
  return request;
}

// Paths of the violations in a status.
std::vector<std::string> Fields(const absl::Status& status) {
  std::vector<std::string> fields;
  const auto payload = status.GetPayload(kBadRequestTypeUrl);
  if (!payload) return fields;
  v1::BadRequest details;
  EXPECT_TRUE(details.ParseFromString(std::string(*payload)));
  for (const auto& violation : details.field_violations()) fields.push_back(violation.field());
  return fields;
}

class RequestBuilderTest : public ::testing::Test {
 protected:
  absl::StatusOr<GenerateRequest> Build(const v1::GenerateRequest& request) const {
    return RequestBuilder(&model_, RequestLimits{}).Build(request);
  }
  void ExpectRefused(const v1::GenerateRequest& request, const std::string& field) const {
    const auto built = Build(request);
    ASSERT_FALSE(built.ok()) << field << " should be refused";
    EXPECT_EQ(built.status().code(), absl::StatusCode::kInvalidArgument) << built.status();
    EXPECT_THAT(Fields(built.status()), ElementsAre(field)) << built.status();
  }

  ServedModel model_ = FakeServedModel();
};

// Out of memory at one word, whatever asks for its tokens.
class FailingEncoder : public FakeEncoder {
 public:
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                  bool parse_special) const override {
    if (text.find("fail") != std::string_view::npos) return absl::ResourceExhaustedError("full");
    return FakeEncoder::EncodeText(text, parse_special);
  }
};

TEST_F(RequestBuilderTest, AFailingEncoderIsNotTheFieldsFault) {
  model_.encoder = std::make_shared<FailingEncoder>();
  v1::GenerateRequest bad_word = Request();
  bad_word.mutable_constraints()->add_bad_words("fail");
  v1::GenerateRequest close_message = Request();
  close_message.mutable_reasoning()->set_max_thinking_tokens(5);
  close_message.mutable_reasoning()->set_close_message("fail");
  for (const auto& request : {Request("fail"), bad_word, close_message}) {
    EXPECT_EQ(Build(request).status(), absl::ResourceExhaustedError("full"));
  }
  v1::TokenizeRequest tokenize;
  tokenize.set_text("fail");
  EXPECT_EQ(RequestBuilder(&model_, RequestLimits{}).Tokenize(tokenize).status(),
            absl::ResourceExhaustedError("full"));
}

// An overloaded server must refuse cheaply; what is wrong with the request is said all the same.
TEST_F(RequestBuilderTest, WhoIsNotLetInCostsNoEncoding) {
  class CountingEncoder : public FakeEncoder {
   public:
    absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text,
                                                    bool parse_special) const override {
      ++calls;
      return FakeEncoder::EncodeText(text, parse_special);
    }
    mutable int calls = 0;
  };
  const auto encoder = std::make_shared<CountingEncoder>();
  model_.encoder = encoder;
  const RequestBuilder builder(&model_, RequestLimits{});
  const auto full = [](const GenerateRequest&) { return absl::ResourceExhaustedError("full"); };
  EXPECT_EQ(builder.Build(Request("text"), full).status(), full({}));
  v1::GenerateRequest wrong = Request("text");
  wrong.set_n(0);
  EXPECT_EQ(builder.Build(wrong, full).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(encoder->calls, 0);
  EXPECT_TRUE(builder.Build(Request("text")).ok());
  EXPECT_EQ(encoder->calls, 1);
}

struct RealField {
  std::string path;
  std::function<void(v1::GenerateRequest*, double)> set;
  double low;
  double high;
  bool low_open = false;
};

TEST_F(RequestBuilderTest, RealFieldsOnTheBoundaryGrid) {
  const std::vector<RealField> fields = {
      {"sampling.temperature", [](auto* r, double v) { r->mutable_sampling()->set_temperature(v); },
       0, 2},
      {"sampling.top_p", [](auto* r, double v) { r->mutable_sampling()->set_top_p(v); }, 0, 1,
       true},
      {"sampling.min_p", [](auto* r, double v) { r->mutable_sampling()->set_min_p(v); }, 0, 1},
      {"sampling.repetition_penalty",
       [](auto* r, double v) { r->mutable_sampling()->set_repetition_penalty(v); }, 0.01, 100},
      {"sampling.presence_penalty",
       [](auto* r, double v) { r->mutable_sampling()->set_presence_penalty(v); }, -2, 2},
      {"sampling.frequency_penalty",
       [](auto* r, double v) { r->mutable_sampling()->set_frequency_penalty(v); }, -2, 2},
      {"constraints.logit_bias[7]",
       [](auto* r, double v) { (*r->mutable_constraints()->mutable_logit_bias())[7] = v; }, -100,
       100},
  };
  for (const RealField& field : fields) {
    for (const double value :
         {0.0, -0.0, 1.0, -1.0, 2.0, -2.0, 2.0001, 100.0, 100.1, -100.0, 1e-300, 1e300,
          2147483647.0, 4294967296.0, 9.2e18, kNaN, kInf, -kInf}) {
      SCOPED_TRACE(absl::StrCat(field.path, " = ", value));
      const bool valid = std::isfinite(value) && value <= field.high &&
                         (field.low_open ? value > field.low : value >= field.low);
      v1::GenerateRequest request = Request();
      field.set(&request, value);
      if (!valid) {
        ExpectRefused(request, field.path);
        continue;
      }
      const auto built = Build(request);
      ASSERT_TRUE(built.ok()) << built.status();
      EXPECT_GT(built->sampling.top_p, 0);
      EXPECT_GT(built->sampling.repetition_penalty, 0);
      EXPECT_TRUE(std::isfinite(built->sampling.temperature));
    }
  }
}

struct IntField {
  std::string path;
  std::function<void(v1::GenerateRequest*, int64_t)> set;
  int64_t low;
  int64_t high;
};

TEST_F(RequestBuilderTest, IntegerFieldsOnTheBoundaryGrid) {
  constexpr int64_t kMax32 = std::numeric_limits<int32_t>::max();
  const std::vector<IntField> fields = {
      {"n", [](auto* r, int64_t v) { r->set_n(v); }, 1, 16},
      {"priority", [](auto* r, int64_t v) { r->set_priority(v); }, -1000, 1000},
      {"sampling.top_k", [](auto* r, int64_t v) { r->mutable_sampling()->set_top_k(v); }, -1,
       kMax32},
      {"sampling.seed", [](auto* r, int64_t v) { r->mutable_sampling()->set_seed(v); },
       std::numeric_limits<int64_t>::min(), std::numeric_limits<int64_t>::max()},
      {"stopping.max_tokens", [](auto* r, int64_t v) { r->mutable_stopping()->set_max_tokens(v); },
       1, 4091},
      {"stopping.min_tokens", [](auto* r, int64_t v) { r->mutable_stopping()->set_min_tokens(v); },
       0, 4091},
      {"response.logprobs", [](auto* r, int64_t v) { r->mutable_response()->set_logprobs(v); }, 0,
       20},
      {"response.prompt_logprobs",
       [](auto* r, int64_t v) { r->mutable_response()->set_prompt_logprobs(v); }, 0, 20},
      {"reasoning.max_thinking_tokens",
       [](auto* r, int64_t v) { r->mutable_reasoning()->set_max_thinking_tokens(v); }, 0, kMax32},
      {"reasoning.min_answer_tokens",
       [](auto* r, int64_t v) { r->mutable_reasoning()->set_min_answer_tokens(v); }, 0, 4091},
      {"stopping.stop_token_ids[0]",
       [](auto* r, int64_t v) { r->mutable_stopping()->add_stop_token_ids(v); }, 0, kFakeVocab - 1},
      {"constraints.allowed_token_ids[0]",
       [](auto* r, int64_t v) { r->mutable_constraints()->add_allowed_token_ids(v); }, 0,
       kFakeVocab - 1},
  };
  for (const IntField& field : fields) {
    for (const int64_t value :
         {int64_t{0}, int64_t{1}, int64_t{-1}, int64_t{16}, int64_t{17}, int64_t{20}, int64_t{21},
          int64_t{299}, int64_t{300}, int64_t{1000}, int64_t{1001}, int64_t{4091}, int64_t{4092},
          kMax32, kMax32 + 1, -kMax32 - 1, int64_t{1} << 32, std::numeric_limits<int64_t>::max(),
          std::numeric_limits<int64_t>::min()}) {
      SCOPED_TRACE(absl::StrCat(field.path, " = ", value));
      v1::GenerateRequest request = Request();
      field.set(&request, value);
      if (value >= field.low && value <= field.high) {
        EXPECT_TRUE(Build(request).ok()) << Build(request).status();
      } else {
        ExpectRefused(request, field.path);
      }
    }
  }
}

TEST_F(RequestBuilderTest, PromptTokenIdsOnTheBoundaryGrid) {
  for (const int64_t id : {int64_t{0}, int64_t{299}}) {
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(id);
    ASSERT_TRUE(Build(request).ok()) << id;
  }
  for (const int64_t id :
       {int64_t{-1}, int64_t{300}, int64_t{1} << 32, std::numeric_limits<int64_t>::max()}) {
    v1::GenerateRequest request;
    request.mutable_token_ids()->add_ids(3);
    request.mutable_token_ids()->add_ids(id);
    ExpectRefused(request, "token_ids.ids[1]");
  }
  v1::GenerateRequest empty;
  empty.mutable_token_ids();
  ExpectRefused(empty, "prompt");
  ExpectRefused(v1::GenerateRequest(), "prompt");
  ExpectRefused(Request(""), "prompt");
}

TEST_F(RequestBuilderTest, LogitBiasIdsOnTheBoundaryGrid) {
  for (const int64_t id : {int64_t{-1}, int64_t{300}, std::numeric_limits<int64_t>::max()}) {
    v1::GenerateRequest request = Request();
    (*request.mutable_constraints()->mutable_logit_bias())[id] = 1;
    ExpectRefused(request, absl::StrCat("constraints.logit_bias[", id, "]"));
  }
}

TEST_F(RequestBuilderTest, UnsetFieldsTakeTheModelsDefaults) {
  model_.generation.temperature = 0.6;
  model_.generation.top_k = 20;
  model_.generation.top_p = 0.95;
  model_.generation.max_new_tokens = 100;
  auto built = Build(Request());
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_FLOAT_EQ(built->sampling.temperature, 0.6F);
  EXPECT_EQ(built->sampling.top_k, 20);
  EXPECT_FLOAT_EQ(built->sampling.top_p, 0.95F);
  EXPECT_EQ(built->stopping.max_tokens, 100);

  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_k(-1);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_stopping()->set_max_tokens(7);
  built = Build(request);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(built->sampling.temperature, 0);
  EXPECT_EQ(built->sampling.top_k, 0);
  EXPECT_EQ(built->sampling.top_p, 1);
  EXPECT_EQ(built->stopping.max_tokens, 7);
}

TEST_F(RequestBuilderTest, AModelThatDoesNotSampleIsGreedyByDefault) {
  model_.generation.do_sample = false;
  EXPECT_EQ(Build(Request())->sampling.temperature, 0);
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_temperature(1);
  EXPECT_EQ(Build(request)->sampling.temperature, 1);
}

TEST_F(RequestBuilderTest, BeamsReplaceSampling) {
  v1::GenerateRequest request = Request();
  request.set_n(2);
  v1::BeamOptions* beams = request.mutable_beams();
  beams->set_width(4);
  beams->set_length_penalty(0.5);
  beams->set_early_stopping(v1::BeamOptions::EARLY_STOPPING_NEVER);
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_top_k(-1);
  model_.generation.repetition_penalty = 1.05;
  const auto built = Build(request);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(built->beams.width, 4);
  EXPECT_EQ(built->beams.length_penalty, 0.5);
  EXPECT_EQ(built->beams.early_stopping, BeamEarlyStopping::kNever);
  EXPECT_FALSE(built->beams.grammar_penalty.has_value());
  EXPECT_EQ(built->sampling.repetition_penalty, 1) << "the model's default is about sampling";
}

TEST_F(RequestBuilderTest, OneBeamIsTheGreedyAnswer) {
  v1::GenerateRequest request = Request();
  request.mutable_beams()->set_width(1);
  model_.generation.temperature = 0.7;
  const auto built = Build(request);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_FALSE(built->beams.search());
  EXPECT_EQ(built->sampling.temperature, 0);
}

TEST_F(RequestBuilderTest, WhatABeamSearchCannotDoIsRefused) {
  struct Case {
    const char* field;
    std::function<void(v1::GenerateRequest*)> change;
  };
  const std::vector<Case> cases = {
      {"beams.width", [](auto* r) { r->mutable_beams()->set_width(0); }},
      {"beams.width", [](auto* r) { r->mutable_beams()->set_width(-1); }},
      {"beams.width", [](auto* r) { r->mutable_beams()->set_width(17); }},
      {"beams.width", [](auto* r) { r->mutable_beams()->set_width(int64_t{1} << 40); }},
      {"n", [](auto* r) { r->set_n(5); }},
      {"beams.length_penalty", [](auto* r) { r->mutable_beams()->set_length_penalty(kNaN); }},
      {"beams.length_penalty", [](auto* r) { r->mutable_beams()->set_length_penalty(-11); }},
      {"beams.early_stopping",
       [](auto* r) {
         r->mutable_beams()->set_early_stopping(static_cast<v1::BeamOptions::EarlyStopping>(9));
       }},
      {"beams.grammar_penalty", [](auto* r) { r->mutable_beams()->set_grammar_penalty(-1); }},
      {"beams.grammar_penalty", [](auto* r) { r->mutable_beams()->set_grammar_penalty(1); }},
      {"sampling.temperature", [](auto* r) { r->mutable_sampling()->set_temperature(0.5); }},
      {"sampling.top_k", [](auto* r) { r->mutable_sampling()->set_top_k(5); }},
      {"sampling.top_p", [](auto* r) { r->mutable_sampling()->set_top_p(0.9); }},
      {"sampling.min_p", [](auto* r) { r->mutable_sampling()->set_min_p(0.1); }},
      {"sampling.repetition_penalty",
       [](auto* r) { r->mutable_sampling()->set_repetition_penalty(2); }},
      {"sampling.presence_penalty",
       [](auto* r) { r->mutable_sampling()->set_presence_penalty(1); }},
      {"sampling.frequency_penalty",
       [](auto* r) { r->mutable_sampling()->set_frequency_penalty(1); }},
      {"stopping.stop", [](auto* r) { r->mutable_stopping()->add_stop("x"); }}};
  for (const Case& refused : cases) {
    v1::GenerateRequest request = Request();
    request.mutable_beams()->set_width(4);
    refused.change(&request);
    ExpectRefused(request, refused.field);
  }
}

TEST_F(RequestBuilderTest, TinyTemperaturesAreRaised) {
  v1::GenerateRequest request = Request();
  request.mutable_sampling()->set_temperature(1e-30);
  EXPECT_FLOAT_EQ(Build(request)->sampling.temperature, 0.01F);
}

TEST_F(RequestBuilderTest, PromptMustLeaveRoomForOneToken) {
  EXPECT_TRUE(Build(Request(std::string(4095, 'a'))).ok());
  EXPECT_EQ(Build(Request(std::string(4095, 'a')))->stopping.max_tokens, 1);
  ExpectRefused(Request(std::string(4096, 'a')), "prompt");
  ExpectRefused(Request(std::string(1 << 20, 'a')), "prompt");
}

TEST_F(RequestBuilderTest, AnotherModelIsNotFound) {
  v1::GenerateRequest request = Request();
  request.set_model("fake");
  EXPECT_TRUE(Build(request).ok());
  request.set_model("gpt");
  EXPECT_EQ(Build(request).status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(Build(request).status().message()), HasSubstr("\"fake\""));
}

TEST_F(RequestBuilderTest, SeveralViolationsAreReportedTogether) {
  v1::GenerateRequest request = Request();
  request.set_n(0);
  request.mutable_sampling()->set_top_p(2);
  EXPECT_THAT(Fields(Build(request).status()), ElementsAre("n", "sampling.top_p"));
}

TEST_F(RequestBuilderTest, ErrorsStaySmall) {
  v1::GenerateRequest request = Request();
  for (int i = 0; i < 1000; ++i) {
    (*request.mutable_constraints()->mutable_logit_bias())[1000 + i] = kNaN;
  }
  const absl::Status status = Build(request).status();
  EXPECT_EQ(Fields(status).size(), 8U);
  EXPECT_LT(status.message().size(), 4096U);
}

TEST_F(RequestBuilderTest, CountsAreLimited) {
  v1::GenerateRequest stops = Request();
  for (int i = 0; i < 17; ++i) stops.mutable_stopping()->add_stop("x");
  ExpectRefused(stops, "stopping.stop");
  v1::GenerateRequest words = Request();
  for (int i = 0; i < 1025; ++i) words.mutable_constraints()->add_bad_words("x");
  ExpectRefused(words, "constraints.bad_words");
  v1::GenerateRequest tokens = Request();
  for (int i = 0; i < 10; ++i) {
    tokens.mutable_constraints()->add_bad_words(std::string(200, static_cast<char>('a' + i)));
  }
  ExpectRefused(tokens, "constraints.bad_words");
  v1::GenerateRequest ids = Request();
  for (int i = 0; i < 1025; ++i) ids.mutable_constraints()->add_allowed_token_ids(1);
  ExpectRefused(ids, "constraints.allowed_token_ids");
}

TEST_F(RequestBuilderTest, StopStringsHaveALength) {
  v1::GenerateRequest request = Request();
  request.mutable_stopping()->add_stop(std::string(256, 'x'));
  EXPECT_TRUE(Build(request).ok());
  request.mutable_stopping()->add_stop("");
  ExpectRefused(request, "stopping.stop[1].length");
  request.mutable_stopping()->set_stop(1, std::string(257, 'x'));
  ExpectRefused(request, "stopping.stop[1].length");
}

TEST_F(RequestBuilderTest, BadWordsAreBannedWithAndWithoutSpace) {
  v1::GenerateRequest request = Request();
  request.mutable_constraints()->add_bad_words("no");
  EXPECT_THAT(Build(request)->sampling.bad_words,
              ElementsAre(ElementsAre('n', 'o'), ElementsAre(' ', 'n', 'o')));
  request.mutable_constraints()->set_bad_words(0, "  no");
  EXPECT_THAT(Build(request)->sampling.bad_words,
              ElementsAre(ElementsAre('n', 'o'), ElementsAre(' ', 'n', 'o')));
  request.mutable_constraints()->set_bad_words(0, "\n");  // nothing but white space: as it is
  EXPECT_THAT(Build(request)->sampling.bad_words, ElementsAre(ElementsAre('\n')));
}

TEST_F(RequestBuilderTest, NamesAreChecked) {
  v1::GenerateRequest request = Request();
  request.set_request_id("a-1.b:c_D");
  EXPECT_EQ(Build(request)->external_id, "a-1.b:c_D");
  request.set_request_id("a b");
  ExpectRefused(request, "request_id");
  request.set_request_id(std::string(129, 'a'));
  ExpectRefused(request, "request_id");
  request.clear_request_id();
  request.mutable_cache()->set_salt("tenant/7");
  ExpectRefused(request, "cache.salt");
}

TEST_F(RequestBuilderTest, ControlTokensInUserTextStayText) {
  v1::GenerateRequest request = Request("<think>");
  EXPECT_EQ(Build(request)->prompt_ids.size(), 7U);
  request.set_parse_special_tokens(true);
  EXPECT_THAT(Build(request)->prompt_ids, ElementsAre(kFakeThinkOpen));
}

TEST_F(RequestBuilderTest, ChatMessagesAreChecked) {
  v1::GenerateRequest request;
  request.mutable_chat();
  ExpectRefused(request, "chat.messages.length");
  request = ChatRequest();
  request.mutable_chat()->mutable_messages(0)->set_role("wizard");
  ExpectRefused(request, "chat.messages[0].role");
  request = ChatRequest();
  request.mutable_chat()->add_tools("[1]");
  ExpectRefused(request, "chat.tools[0]");
  request = ChatRequest();
  request.mutable_chat()->mutable_messages(0)->add_tool_calls()->set_name("f");
  ExpectRefused(request, "chat.messages[0].tool_calls");
  ExpectRefused(ChatRequest("refuse me"), "chat");
  model_.has_chat_template = false;
  ExpectRefused(ChatRequest(), "chat");
}

TEST_F(RequestBuilderTest, MessagesBecomeJson) {
  v1::GenerateRequest request = ChatRequest("say \"hi\"");
  request.mutable_chat()->mutable_messages(0)->set_role("developer");
  v1::ChatMessage* message = request.mutable_chat()->add_messages();
  message->set_role("assistant");
  message->set_reasoning_content("hm");
  v1::ToolCall* call = message->add_tool_calls();
  call->set_name("f");
  call->set_arguments("{\"a\":1}");
  call = message->add_tool_calls();
  call->set_name("g");
  call->set_arguments("not json");
  request.mutable_chat()->add_tools("{\"name\": \"f\"}");
  const auto built = Build(request);
  ASSERT_TRUE(built.ok()) << built.status();
  EXPECT_EQ(FakeEncoder().Decode(built->prompt_ids, false),
            R"([{"role":"developer","content":"say \"hi\""},)"
            R"({"role":"assistant","content":"","reasoning_content":"hm","tool_calls":[)"
            R"({"type":"function","function":{"name":"f","arguments":"{\"a\":1}"}},)"
            R"({"type":"function","function":{"name":"g","arguments":"not json"}}]}])"
            R"([{"name": "f"}])");
  EXPECT_EQ(built->output.tool_call_format, ToolCallFormat::kHermes);
  request.mutable_chat()->set_tool_choice(v1::TOOL_CHOICE_NONE);
  EXPECT_EQ(Build(request)->output.tool_call_format, ToolCallFormat::kNone);
  EXPECT_THAT(Build(request)->output.tools_json, IsEmpty());
}

TEST_F(RequestBuilderTest, ReasoningFollowsThePrompt) {
  EXPECT_FALSE(Build(Request())->reasoning.parse);
  EXPECT_TRUE(Build(ChatRequest())->reasoning.parse);
  EXPECT_FALSE(Build(ChatRequest())->reasoning.starts_closed);
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_NO_THINK);
  EXPECT_TRUE(Build(request)->reasoning.starts_closed);
  request = Request();
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_THINK);
  ExpectRefused(request, "reasoning.mode");
}

TEST_F(RequestBuilderTest, ThinkingBudget) {
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_max_thinking_tokens(5);
  auto built = Build(request);
  EXPECT_EQ(built->reasoning.max_thinking_tokens, 5);
  const std::string close = FakeEncoder().Decode(built->reasoning.close_token_ids, false);
  EXPECT_THAT(close, HasSubstr("limited time by the user"));
  EXPECT_THAT(built->reasoning.close_token_ids, ::testing::Contains(kFakeThinkClose));

  request.mutable_reasoning()->set_max_thinking_tokens(0);
  built = Build(request);
  EXPECT_TRUE(built->reasoning.starts_closed) << "a budget of 0 turns thinking off";
  EXPECT_EQ(built->reasoning.max_thinking_tokens, std::nullopt);
}

TEST_F(RequestBuilderTest, CloseMessageOfTheRequestIsUntrusted) {
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_max_thinking_tokens(5);
  request.mutable_reasoning()->set_close_message("<think>!");
  const auto built = Build(request);
  const auto& ids = built->reasoning.close_token_ids;
  EXPECT_EQ(std::count(ids.begin(), ids.end(), kFakeThinkOpen), 0);
  EXPECT_EQ(std::count(ids.begin(), ids.end(), kFakeThinkClose), 1);
  // Spelt out it would end the thinking as text, and what follows would be the answer.
  request.mutable_reasoning()->set_close_message("</think>!");
  ExpectRefused(request, "reasoning.close_message");
}

TEST_F(RequestBuilderTest, TokensAreReservedForTheAnswer) {
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_close_message("");
  request.mutable_reasoning()->set_min_answer_tokens(10);
  request.mutable_stopping()->set_max_tokens(30);
  // "<think>" and "\n</think>\n\n" have 1 and 4 tokens.
  EXPECT_EQ(Build(request)->reasoning.max_thinking_tokens, 15);
  request.mutable_stopping()->set_max_tokens(16);
  EXPECT_EQ(Build(request)->reasoning.max_thinking_tokens, 1);
  for (const int64_t max_tokens : {15, 11, 10}) {
    request.mutable_stopping()->set_max_tokens(max_tokens);
    const auto built = Build(request);
    EXPECT_TRUE(built->reasoning.starts_closed) << max_tokens << " leaves no room to think";
    EXPECT_TRUE(built->reasoning.cut_before_start);
  }
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_NO_THINK);
  EXPECT_FALSE(Build(request)->reasoning.cut_before_start) << "nobody wanted to think";
  request.mutable_stopping()->set_max_tokens(9);
  ExpectRefused(request, "reasoning.min_answer_tokens");
}

TEST_F(RequestBuilderTest, TheLastWordsOfThinkingGiveWayToTheAnswer) {
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_close_message(std::string(40, 'x'));
  request.mutable_reasoning()->set_max_thinking_tokens(20);
  const auto close_size = [&](int64_t max_tokens) {
    request.mutable_stopping()->set_max_tokens(max_tokens);
    return Build(request)->reasoning.close_token_ids.size();
  };
  EXPECT_EQ(close_size(65), 44u);
  EXPECT_EQ(close_size(64), 4u) << "it would be cut off, and no answer would follow";
  request.mutable_reasoning()->set_min_answer_tokens(10);
  EXPECT_EQ(close_size(99), 44u);
  EXPECT_EQ(close_size(74), 4u) << "it would take most of what is there to think";
}

TEST_F(RequestBuilderTest, AutoThinksWhereTheQuestionNeedsIt) {
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_AUTO);
  request.mutable_chat()->mutable_messages(0)->set_content("Hello!");
  EXPECT_TRUE(Build(request)->reasoning.starts_closed);
  request.mutable_chat()->mutable_messages(0)->set_content("What is 44 + 9809?");
  EXPECT_FALSE(Build(request)->reasoning.starts_closed);
  v1::TokenizeRequest tokenize;
  *tokenize.mutable_chat() = request.chat();
  tokenize.set_reasoning_mode(v1::ReasoningOptions::MODE_AUTO);
  EXPECT_EQ(*RequestBuilder(&model_, {}).Tokenize(tokenize), Build(request)->prompt_ids);
  request = Request();
  request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_AUTO);
  ExpectRefused(request, "reasoning.mode");
}

TEST_F(RequestBuilderTest, ModelsWithoutThinkTokensRefuseBudgets) {
  model_.think_open_id.reset();
  EXPECT_FALSE(Build(ChatRequest())->reasoning.parse);
  v1::GenerateRequest request = ChatRequest();
  request.mutable_reasoning()->set_max_thinking_tokens(5);
  ExpectRefused(request, "reasoning");
}

TEST_F(RequestBuilderTest, WithoutATokenizerOnlyTokenIdsWork) {
  model_.has_tokenizer = false;
  ExpectRefused(Request("a"), "text");
  v1::GenerateRequest request;
  request.mutable_token_ids()->add_ids(1);
  EXPECT_TRUE(Build(request).ok());
  request.mutable_stopping()->add_stop("x");
  ExpectRefused(request, "stopping.stop");
}

TEST_F(RequestBuilderTest, TokenizeAndDetokenize) {
  const RequestBuilder builder(&model_, RequestLimits{});
  v1::TokenizeRequest tokenize;
  EXPECT_THAT(Fields(builder.Tokenize(tokenize).status()), ElementsAre("input"));
  tokenize.set_text("ab");
  EXPECT_THAT(*builder.Tokenize(tokenize), ElementsAre('a', 'b'));
  v1::DetokenizeRequest detokenize;
  detokenize.add_token_ids('a');
  EXPECT_EQ(*builder.Detokenize(detokenize), "a");
  detokenize.add_token_ids(300);
  EXPECT_THAT(Fields(builder.Detokenize(detokenize).status()), ElementsAre("token_ids[1]"));
  detokenize.set_model("other");
  EXPECT_EQ(builder.Detokenize(detokenize).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tessera
