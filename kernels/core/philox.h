// Philox 4x32-10: a counter-based random number generator (J. Salmon et al., "Parallel Random
// Numbers: As Easy as 1, 2, 3", SC 2011). Stateless, so every (key, counter) can be drawn anywhere.
#ifndef TESSERA_KERNELS_CORE_PHILOX_H_
#define TESSERA_KERNELS_CORE_PHILOX_H_

#include <array>
#include <cstdint>

namespace tessera {

struct Philox {
  static constexpr int kRounds = 10;
  static constexpr uint32_t kMultiplier0 = 0xD2511F53U;
  static constexpr uint32_t kMultiplier1 = 0xCD9E8D57U;
  static constexpr uint32_t kWeyl0 = 0x9E3779B9U;  // what the key grows by in a round
  static constexpr uint32_t kWeyl1 = 0xBB67AE85U;
};

constexpr std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter,
                                             std::array<uint32_t, 2> key) {
  for (int round = 0; round < Philox::kRounds; ++round) {
    const uint64_t product0 = uint64_t{Philox::kMultiplier0} * counter[0];
    const uint64_t product1 = uint64_t{Philox::kMultiplier1} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<uint32_t>(product0)};
    key = {key[0] + Philox::kWeyl0, key[1] + Philox::kWeyl1};
  }
  return counter;
}

// The four draws of token ids 4 * group ... 4 * group + 3.
constexpr std::array<uint32_t, 4> DrawsOfGroup(uint64_t seed, uint32_t position, uint32_t group) {
  return Philox4x32({group, position, 0, 0},
                    {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)});
}

// 32 random bits to (0, 1), both ends excluded; exact in double.
constexpr double UniformFromBits(uint32_t bits) {
  return (static_cast<double>(bits) + 0.5) * 0x1p-32;
}

// The uniform draw in (0, 1) of token `id` at index `position` of a sequence.
constexpr double UniformFromSeed(uint64_t seed, uint32_t position, uint32_t id) {
  return UniformFromBits(DrawsOfGroup(seed, position, id / 4)[id % 4]);
}

}  // namespace tessera

#endif  // TESSERA_KERNELS_CORE_PHILOX_H_
