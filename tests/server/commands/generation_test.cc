// The same answers in this process, over gRPC and in the golden data.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/chat_json.h"
#include "server/commands/generation_flags.h"
#include "server/commands/response_json.h"
#include "server/grpc/grpc_server.h"
#include "server/grpc/remote_generator.h"
#include "server/inference_context.h"
#include "server/model_runtime.h"
#include "server/text_generator.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;  // tools keep the order of their keys

class NanoTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    EngineOptions options;
    options.model.model_dir = TESSERA_NANO_MODEL;
    options.model.dtype = DType::kF32;
    options.kv_cache_bytes = 64 << 20;
    auto loaded = ModelRuntime::Load({.engine = options}, nullptr, {});
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    runtime_ = loaded->release();
  }
  static void TearDownTestSuite() {
    delete runtime_;
    runtime_ = nullptr;
  }

  static ModelRuntime* runtime_;
};
ModelRuntime* NanoTest::runtime_ = nullptr;

std::vector<Json> Goldens(size_t count) {
  std::vector<Json> goldens;
  std::ifstream file(absl::StrCat(TESSERA_NANO_MODEL, "/golden.jsonl"));
  std::string line;
  while (goldens.size() < count && std::getline(file, line)) goldens.push_back(Json::parse(line));
  return goldens;
}

v1::GenerateRequest RequestOf(const Json& golden) {
  const std::string tools = golden["tools"].is_null() ? "" : golden["tools"].dump();
  auto chat = ParseChatPrompt(golden["messages"].dump(), tools);
  EXPECT_TRUE(chat.ok()) << chat.status();
  v1::GenerateRequest request;
  *request.mutable_chat() = *chat;
  request.mutable_sampling()->set_temperature(0);
  request.mutable_stopping()->set_max_tokens(96);
  if (golden["enable_thinking"] == false) {
    request.mutable_reasoning()->set_mode(v1::ReasoningOptions::MODE_NO_THINK);
  }
  return request;
}

TEST_F(NanoTest, AnswersLikeTheGoldensInProcessAndOverGrpc) {
  MetricsRecorder metrics;
  InferenceContext context(&runtime_->model(), &runtime_->engine(), &metrics, runtime_->options(),
                           ServiceLimits{});
  const auto server = GrpcServer::Start(&context, {.port = 0});
  ASSERT_TRUE(server.ok()) << server.status();
  const auto remote =
      MakeRemoteGenerator({.server = {.address = absl::StrCat("127.0.0.1:", (*server)->port())}});
  ASSERT_TRUE(remote.ok()) << remote.status();
  const auto local = MakeLocalGenerator(runtime_);
  for (const Json& golden : Goldens(6)) {
    const v1::GenerateRequest request = RequestOf(golden);
    SCOPED_TRACE(golden["messages"].dump());
    for (TextGenerator* generator : {local.get(), remote->get()}) {
      const auto response = Generate(*generator, request);
      ASSERT_TRUE(response.ok()) << response.status();
      ASSERT_EQ(response->choices_size(), 1);
      const v1::Choice& choice = response->choices(0);
      EXPECT_EQ(std::vector<int32_t>(choice.token_ids().begin(), choice.token_ids().end()),
                golden["greedy"].get<std::vector<int32_t>>());
      EXPECT_EQ(response->usage().prompt_tokens(),
                static_cast<int32_t>(golden["prompt_ids"].size()));
      EXPECT_EQ(choice.text().find("<think>"), std::string::npos);
    }
  }
}

TEST_F(NanoTest, ReasoningIsSplitAndCounted) {
  const auto response = Generate(*MakeLocalGenerator(runtime_), RequestOf(Goldens(1)[0]));
  ASSERT_TRUE(response.ok()) << response.status();
  const Json json = Json::parse(ResponseJson(*response));
  EXPECT_EQ(json["text"], "9853");
  EXPECT_THAT(json["reasoning"].get<std::string>(), HasSubstr("read 9853"));
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["usage"]["prompt_tokens"], 20);
  EXPECT_EQ(json["usage"]["completion_tokens"], json["token_ids"].size());
  EXPECT_GT(json["usage"]["reasoning_tokens"], 50);
}

TEST_F(NanoTest, SeveralChoicesAreListed) {
  v1::GenerateRequest request = RequestOf(Goldens(1)[0]);
  request.set_n(3);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(5);
  request.mutable_stopping()->set_max_tokens(4);
  const auto response = Generate(*MakeLocalGenerator(runtime_), request);
  ASSERT_TRUE(response.ok()) << response.status();
  const Json json = Json::parse(ResponseJson(*response));
  EXPECT_EQ(json["choices"].size(), 3U);
  EXPECT_EQ(json["usage"]["completion_tokens"], 12);
  EXPECT_EQ(json["usage"]["prompt_tokens"], 20);
}

TEST_F(NanoTest, ACancelledStreamEndsEarly) {
  v1::GenerateRequest request = RequestOf(Goldens(1)[0]);
  request.mutable_stopping()->set_max_tokens(4000);
  request.mutable_stopping()->set_ignore_eos(true);
  std::atomic<bool> cancelled{false};
  int num_messages = 0;
  const absl::Status status = MakeLocalGenerator(runtime_)->Stream(
      request,
      [&](const v1::GenerateResponse&) {
        if (++num_messages == 3) cancelled = true;
      },
      &cancelled);
  EXPECT_TRUE(absl::IsCancelled(status)) << status;
  EXPECT_LT(num_messages, 100);
}

TEST(ModelRuntimeTest, ErrorsSayWhatToDo) {
  const auto error = [](EngineOptions options) {
    return std::string(ModelRuntime::Load({.engine = options}, nullptr, {}).status().message());
  };
  EngineOptions options;
  options.model.model_dir = "/no/such/folder";
  EXPECT_THAT(error(options), HasSubstr("/no/such/folder does not exist"));
  options.model.model_dir = absl::StrCat(TESSERA_NANO_MODEL, "/config.json");
  EXPECT_THAT(error(options), HasSubstr("is not a folder"));
  options.model.model_dir = TESSERA_TEST_DATA;
  EXPECT_THAT(error(options), HasSubstr("config.json"));
  options.model.model_dir = TESSERA_NANO_MODEL;
  options.model.layout.tensor_parallel = 3;
  EXPECT_THAT(error(options), HasSubstr("tensor"));
}

TEST(GenerationFlagsTest, ExactlyOnePrompt) {
  GenerationFlags flags;
  EXPECT_FALSE(PromptRequest(flags).ok());
  flags.prompt = "a";
  EXPECT_EQ(PromptRequest(flags)->text(), "a");
  flags.chat = "b";
  EXPECT_THAT(std::string(PromptRequest(flags).status().message()), HasSubstr("exactly one"));
  flags.prompt.clear();
  flags.system = "s";
  EXPECT_EQ(PromptRequest(flags)->chat().messages_size(), 2);
  flags.tools_path = "x";
  EXPECT_THAT(std::string(PromptRequest(flags).status().message()), HasSubstr("--messages"));
}

TEST(GenerationFlagsTest, FlagsReachTheRequest) {
  GenerationFlags flags;
  flags.token_ids = "1, 2,3";
  flags.max_tokens = 5;
  flags.stop_token_ids = "7";
  const auto request = PromptRequest(flags);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_THAT(request->token_ids().ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(request->stopping().max_tokens(), 5);
  EXPECT_THAT(request->stopping().stop_token_ids(), ElementsAre(7));
  EXPECT_FALSE(request->sampling().has_temperature());
  flags.token_ids = "1,x";
  EXPECT_FALSE(PromptRequest(flags).ok());
}

TEST(GenerationFlagsTest, FlagsReachTheChat) {
  GenerationFlags flags;
  flags.system = "s";
  flags.enable_thinking = false;
  flags.stop_token_ids = "7";
  const auto request = ChatRequest(flags);
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->chat().messages_size(), 1);
  EXPECT_THAT(request->stopping().stop_token_ids(), ElementsAre(7));
  EXPECT_EQ(request->reasoning().mode(), v1::ReasoningOptions::MODE_NO_THINK);
}

TEST(GenerationFlagsTest, ErrorsNameTheOption) {
  const auto error = [](const GenerationFlags& flags) {
    return std::string(ChatRequest(flags).status().message());
  };
  EXPECT_EQ(error({.temperature = -1, .top_p = 2}),
            "--temperature: must be in [0, 2], got -1; --top-p: must be in (0, 1], got 2");
  EXPECT_EQ(error({.stop = {"a", ""}}), "--stop: its length must be in [1, 256], got 0");
  EXPECT_THAT(error({.cache_salt = "a/b"}), HasSubstr("--cache-salt: must be"));
  EXPECT_THAT(error({.stop_token_ids = "1,-2"}), HasSubstr("--stop-token-ids: must be"));
}

TEST(RemoteGeneratorTest, NobodyAnswers) {
  const auto remote = MakeRemoteGenerator({.server = {.address = "127.0.0.1:1"}});
  ASSERT_FALSE(remote.ok());
  EXPECT_THAT(std::string(remote.status().message()), HasSubstr("tessera serve"));
}

}  // namespace
}  // namespace tessera
