// The likeliest answer of an executor to a prompt.
#ifndef TESSERA_TESTS_ENGINE_EXECUTOR_GREEDY_H_
#define TESSERA_TESTS_ENGINE_EXECUTOR_GREEDY_H_

#include <cstdint>
#include <vector>

#include "engine/executor/executor.h"
#include "engine/executor/sequence_runner.h"
#include "gtest/gtest.h"

namespace tessera {

// `count` tokens, fewer when a step fails. The executor has a KV cache that is large enough.
inline std::vector<int32_t> Greedy(Executor& executor, int32_t block_size,
                                   const std::vector<int32_t>& prompt, size_t count) {
  SequenceRunner runner(executor, block_size);
  std::vector<int32_t> tokens;
  std::vector<int32_t> next = prompt;
  while (tokens.size() < count) {
    const auto result = runner.Append({.token_ids = next});
    EXPECT_TRUE(result.ok()) << result.status();
    if (!result.ok()) break;
    next = {result->token[0]};
    tokens.push_back(result->token[0]);
  }
  return tokens;
}

}  // namespace tessera

#endif  // TESSERA_TESTS_ENGINE_EXECUTOR_GREEDY_H_
