// Options of one generation: generate, client and chat share them.
#ifndef TESSERA_SERVER_COMMANDS_GENERATION_FLAGS_H_
#define TESSERA_SERVER_COMMANDS_GENERATION_FLAGS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "server/option_table.h"
#include "tessera/v1/inference.pb.h"

namespace tessera {

struct GenerationFlags {
  std::string prompt;
  std::string chat;
  std::string system;
  std::string token_ids;
  std::string messages_path;
  std::string tools_path;
  bool parse_special_tokens = false;
  std::optional<int64_t> n;
  std::optional<int64_t> max_tokens;
  std::optional<int64_t> min_tokens;
  std::optional<double> temperature;
  std::optional<int64_t> top_k;
  std::optional<double> top_p;
  std::optional<double> min_p;
  std::optional<double> repetition_penalty;
  std::optional<double> presence_penalty;
  std::optional<double> frequency_penalty;
  std::optional<int64_t> seed;
  std::vector<std::string> stop;
  std::vector<std::string> bad_words;
  std::string stop_token_ids;
  bool include_stop = false;
  bool ignore_eos = false;
  bool stop_in_reasoning = false;
  std::optional<int64_t> logprobs;
  std::optional<int64_t> prompt_logprobs;
  std::optional<bool> skip_special_tokens;
  std::optional<bool> enable_thinking;
  std::optional<int64_t> max_thinking_tokens;
  std::string cache_salt;
  std::optional<int64_t> priority;
  std::string model;
};

void AddPromptOptions(OptionTable* table, GenerationFlags* flags);
void AddSamplingOptions(OptionTable* table, GenerationFlags* flags);

// InvalidArgument unless there is exactly one prompt, and for values that no model allows: the
// message names the option. Reads the files; FailedPrecondition when one is of no use.
absl::StatusOr<v1::GenerateRequest> PromptRequest(const GenerationFlags& flags);
// The same for a chat that the user has yet to begin.
absl::StatusOr<v1::GenerateRequest> ChatRequest(const GenerationFlags& flags);

// The texts of --messages and --tools; without a path no tools. Errors name the file.
struct ChatFiles {
  std::string messages;
  std::string tools;
};
absl::StatusOr<ChatFiles> ReadChatFiles(const std::string& messages_path,
                                        const std::string& tools_path);

// "1,2,3"; an error names the option.
absl::StatusOr<std::vector<int64_t>> ParseIds(const std::string& option, const std::string& text);

}  // namespace tessera

#endif  // TESSERA_SERVER_COMMANDS_GENERATION_FLAGS_H_
