#include "tests/kernels/perf_inputs.h"

#include <algorithm>
#include <numeric>

namespace tessera::test {
namespace {

constexpr int64_t kBlock = PagedSequences::kBlock;

int64_t BlocksOf(int64_t context) { return (context + kBlock - 1) / kBlock; }

TestTensor ShuffledTables(Device& device, Random& random, int64_t sequences, int64_t blocks) {
  std::vector<int32_t> tables(sequences * blocks);
  std::iota(tables.begin(), tables.end(), 0);
  std::shuffle(tables.begin(), tables.end(), random.engine());
  return TestTensor::Ints(device, {sequences, blocks}, tables);
}

TestTensor Multiples(Device& device, int64_t count, int64_t step) {
  std::vector<int32_t> values;
  for (int64_t i = 0; i < count; ++i) values.push_back(static_cast<int32_t>(i * step));
  return TestTensor::Ints(device, {count}, values);
}

}  // namespace

std::vector<std::pair<std::string, std::string>> KeysAndValues(
    const std::vector<std::string>& arguments) {
  std::vector<std::pair<std::string, std::string>> pairs;
  for (const std::string& argument : arguments) {
    const size_t equals = argument.find('=');
    pairs.emplace_back(argument.substr(0, equals),
                       equals == std::string::npos ? "" : argument.substr(equals + 1));
  }
  return pairs;
}

const uint16_t* SmallBFloat16Bits(int64_t count) {
  static std::vector<uint16_t> bits;
  static uint32_t state = 1;
  while (static_cast<int64_t>(bits.size()) < count) {
    state = state * 1664525U + 1013904223U;
    bits.push_back(static_cast<uint16_t>(0x3c00U | ((state >> 16) & 0x80ffU)));
  }
  return bits.data();
}

std::unique_ptr<Weight> SmallWeight(Ops& ops, int64_t rows, int64_t cols, DType dtype) {
  const HostMatrix matrix{SmallBFloat16Bits(rows * cols), DType::kBF16, rows, cols, cols};
  absl::StatusOr<std::unique_ptr<Weight>> weight =
      ops.PrepareWeight({.parts = {matrix}, .pad_rows = 0, .dtype = dtype});
  TESSERA_CHECK(weight.ok());
  return *std::move(weight);
}

PagedSequences::PagedSequences(Device& device, Random& random, int64_t sequences, int64_t query,
                               int64_t context)
    : num_blocks(sequences * BlocksOf(context)),
      block_tables(ShuffledTables(device, random, sequences, BlocksOf(context))),
      cu_seqlens(Multiples(device, sequences + 1, query)),
      context_lens(TestTensor::Ints(
          device, {sequences}, std::vector<int32_t>(sequences, static_cast<int32_t>(context)))),
      visible_keys(static_cast<double>(query) *
                   (static_cast<double>(context) - static_cast<double>(query - 1) / 2)) {}

}  // namespace tessera::test
