// Runs one body per rank on threads of this process.
#ifndef TESSERA_TESTS_PARALLEL_RANK_THREADS_H_
#define TESSERA_TESTS_PARALLEL_RANK_THREADS_H_

#include <functional>
#include <thread>
#include <vector>

namespace tessera {

inline void RunRankThreads(int size, const std::function<void(int)>& body) {
  std::vector<std::thread> threads;
  threads.reserve(size);
  for (int rank = 0; rank < size; ++rank) threads.emplace_back([&body, rank] { body(rank); });
  for (std::thread& thread : threads) thread.join();
}

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_RANK_THREADS_H_
