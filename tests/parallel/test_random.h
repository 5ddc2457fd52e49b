// A small random generator for tests that draw many values under sanitizers.
#ifndef TESSERA_TESTS_PARALLEL_TEST_RANDOM_H_
#define TESSERA_TESTS_PARALLEL_TEST_RANDOM_H_

#include <cstdint>

namespace tessera {

class TestRandom {  // splitmix64
 public:
  explicit TestRandom(uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15U + 1) {}
  uint32_t operator()() {
    uint64_t z = (state_ += 0x9e3779b97f4a7c15U);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  }
  int32_t Below(int64_t limit) { return static_cast<int32_t>((*this)() % limit); }

 private:
  uint64_t state_;
};

}  // namespace tessera

#endif  // TESSERA_TESTS_PARALLEL_TEST_RANDOM_H_
