#include "tests/kernels/sample_case.h"

#include <algorithm>
#include <functional>

#include "kernels/core/bit_mask.h"
#include "kernels/core/host_device.h"
#include "kernels/sampling/sample_row.h"

namespace tessera::test {
namespace {

template <typename T>
std::vector<T> Collect(const std::vector<SampleRowCase>& rows, T SampleRowCase::*field) {
  std::vector<T> values;
  for (const SampleRowCase& row : rows) values.push_back(row.*field);
  return values;
}

// Lists of (token, value) of all rows, end to end.
template <typename Value>
struct Lists {
  explicit Lists(const std::vector<SampleRowCase>& rows,
                 std::vector<std::pair<int32_t, Value>> SampleRowCase::*field) {
    for (const SampleRowCase& row : rows) {
      for (const auto& [token, value] : row.*field) {
        tokens.push_back(token);
        values.push_back(value);
      }
      offsets.push_back(static_cast<int32_t>(tokens.size()));
    }
  }
  int64_t size() const { return static_cast<int64_t>(tokens.size()); }

  std::vector<int32_t> offsets{0};
  std::vector<int32_t> tokens;
  std::vector<Value> values;
};

// The distinct masks of all rows, and which row has which.
struct Masks {
  explicit Masks(const std::vector<SampleRowCase>& cases) {
    std::vector<std::vector<int32_t>> distinct;
    for (const SampleRowCase& row : cases) {
      rows.push_back(-1);
      if (row.mask.empty()) continue;
      const auto found = std::find(distinct.begin(), distinct.end(), row.mask);
      rows.back() = static_cast<int32_t>(found - distinct.begin());
      if (found == distinct.end()) distinct.push_back(row.mask);
    }
    for (const std::vector<int32_t>& mask : distinct) {
      words.insert(words.end(), mask.begin(), mask.end());
    }
    count = static_cast<int64_t>(distinct.size());
  }

  std::vector<int32_t> rows;
  std::vector<int32_t> words;  // [count, MaskWords(V)]
  int64_t count = 0;
};

// The penalty table. Slots are taken in an order of their own; one more than rows, and those of
// rows without penalties, belong to nobody. Counts that nobody listed are noise.
struct PenaltyTable {
  static constexpr int32_t kNoise = 77;

  explicit PenaltyTable(const std::vector<SampleRowCase>& rows)
      : vocab(static_cast<int64_t>(rows[0].logits.size())),
        num_slots(static_cast<int32_t>(rows.size()) + 1),
        listed(num_slots * MaskWords(vocab), kNoise),
        counts(num_slots * vocab, kNoise) {
    for (size_t n = 0; n < rows.size(); ++n) {
      const bool resets = !rows[n].penalties.empty();
      const bool has_slot = resets || !rows[n].counts.empty();
      slot.push_back(has_slot ? num_slots - 1 - static_cast<int32_t>(n) : -1);
      reset.push_back(resets ? 1 : 0);
      if (!rows[n].counts.empty()) Set(slot[n], rows[n].counts);
    }
  }

  void Set(int32_t index, const std::vector<int32_t>& values) {
    int32_t* bits = listed.data() + index * MaskWords(vocab);
    std::fill_n(bits, MaskWords(vocab), 0);
    for (int64_t id = 0; id < vocab; ++id) {
      if (values[id] < 0) continue;
      AddToMask(bits, id);
      counts[index * vocab + id] = values[id];
    }
  }
  std::vector<int32_t> Get(int32_t index) const {
    std::vector<int32_t> values(vocab, -1);
    for (int64_t id = 0; id < vocab; ++id) {
      if (!IsInMask(listed.data() + index * MaskWords(vocab), id)) continue;
      values[id] = counts[index * vocab + id];
    }
    return values;
  }

  int64_t vocab;
  int32_t num_slots;
  std::vector<int32_t> slot;
  std::vector<int32_t> reset;
  std::vector<int32_t> listed;  // [num_slots, MaskWords(V)]
  std::vector<int32_t> counts;  // [num_slots, V]
};

// Gives every row its slot as it is after the call.
void TakeCounts(const PenaltyTable& after, std::vector<SampledRow>* sampled) {
  std::vector<bool> owned(after.num_slots, false);
  for (size_t n = 0; n < sampled->size(); ++n) {
    if (after.slot[n] < 0) continue;
    owned[after.slot[n]] = true;
    (*sampled)[n].counts = after.Get(after.slot[n]);
  }
  const auto expect_noise = [&](const std::vector<int32_t>& values) {
    const size_t per_slot = values.size() / after.num_slots;
    for (size_t i = 0; i < values.size(); ++i) {
      ASSERT_TRUE(owned[i / per_slot] || values[i] == PenaltyTable::kNoise)
          << "slot " << i / per_slot << " has no row";
    }
  };
  expect_noise(after.listed);
  expect_noise(after.counts);
}

std::vector<int32_t> DownloadInts(Device& device, ConstTensorView view) {
  std::vector<int32_t> values(view.num_elements());
  device.Download(values.data(), view.data(), view.num_bytes());
  TESSERA_CHECK(device.Synchronize().ok());
  return values;
}

std::vector<SampledRow> SampleOn(Device& device, const std::vector<SampleRowCase>& rows,
                                 const std::function<void(const SampleArgs&)>& sample) {
  const auto n = static_cast<int64_t>(rows.size());
  const auto vocab = static_cast<int64_t>(rows[0].logits.size());
  std::vector<float> logits;
  int64_t alternatives = 0;
  for (const SampleRowCase& row : rows) {
    logits.insert(logits.end(), row.logits.begin(), row.logits.end());
    alternatives = std::max<int64_t>(alternatives, row.num_logprobs);
  }
  const auto ints = [&](int32_t SampleRowCase::*field) {
    return TestTensor::Ints(device, {n}, Collect(rows, field));
  };
  const auto floats = [&](float SampleRowCase::*field) {
    return TestTensor(device, DType::kF32, {n}, Collect(rows, field));
  };
  const Lists<int32_t> penalties(rows, &SampleRowCase::penalties);
  const Lists<float> adjustments(rows, &SampleRowCase::adjustments);
  const TestTensor logits_tensor(device, DType::kF32, {n, vocab}, logits);
  const TestTensor forced = ints(&SampleRowCase::forced);
  const TestTensor temperature = floats(&SampleRowCase::temperature);
  const TestTensor top_k = ints(&SampleRowCase::top_k);
  const TestTensor top_p = floats(&SampleRowCase::top_p);
  const TestTensor min_p = floats(&SampleRowCase::min_p);
  const TestTensor repetition = floats(&SampleRowCase::repetition_penalty);
  const TestTensor presence = floats(&SampleRowCase::presence_penalty);
  const TestTensor frequency = floats(&SampleRowCase::frequency_penalty);
  const TestTensor seed = TestTensor::Longs(device, Collect(rows, &SampleRowCase::seed));
  const TestTensor position = ints(&SampleRowCase::position);
  const TestTensor pen_offsets = TestTensor::Ints(device, {n + 1}, penalties.offsets);
  const TestTensor pen_tokens = TestTensor::Ints(device, {penalties.size()}, penalties.tokens);
  const TestTensor pen_counts = TestTensor::Ints(device, {penalties.size()}, penalties.values);
  const TestTensor adj_offsets = TestTensor::Ints(device, {n + 1}, adjustments.offsets);
  const TestTensor adj_tokens = TestTensor::Ints(device, {adjustments.size()}, adjustments.tokens);
  const TestTensor adj_values(device, DType::kF32, {adjustments.size()}, adjustments.values);
  PenaltyTable table(rows);
  const TestTensor penalty_slot = TestTensor::Ints(device, {n}, table.slot);
  const TestTensor penalty_reset = TestTensor::Ints(device, {n}, table.reset);
  const TestTensor penalty_listed =
      TestTensor::Ints(device, {table.num_slots, MaskWords(vocab)}, table.listed);
  const TestTensor penalty_counts =
      TestTensor::Ints(device, {table.num_slots, vocab}, table.counts);
  const Masks distinct(rows);
  const TestTensor masks =
      TestTensor::Ints(device, {distinct.count, MaskWords(vocab)}, distinct.words);
  const TestTensor mask_row = TestTensor::Ints(device, {n}, distinct.rows);
  const TestTensor mask_penalty = floats(&SampleRowCase::mask_penalty);
  const TestTensor num_logprobs = ints(&SampleRowCase::num_logprobs);
  const TestTensor token(device, DType::kI32, {n});
  const TestTensor logprob(device, DType::kF32, {n});
  const TestTensor rank(device, DType::kI32, {n});
  const TestTensor top_tokens(device, DType::kI32, {n, alternatives});
  const TestTensor top_logprobs(device, DType::kF32, {n, alternatives});
  SampleArgs args{.logits = logits_tensor,
                  .forced = forced,
                  .temperature = temperature,
                  .top_k = top_k,
                  .top_p = top_p,
                  .min_p = min_p,
                  .repetition_penalty = repetition,
                  .presence_penalty = presence,
                  .frequency_penalty = frequency,
                  .seed = seed,
                  .position = position,
                  .penalty_slot = penalty_slot,
                  .penalty_reset = penalty_reset,
                  .penalty_listed = penalty_listed,
                  .penalty_counts = penalty_counts,
                  .pen_offsets = pen_offsets,
                  .pen_tokens = pen_tokens,
                  .pen_counts = pen_counts,
                  .adj_offsets = adj_offsets,
                  .adj_tokens = adj_tokens,
                  .adj_values = adj_values,
                  .masks = masks,
                  .mask_row = mask_row,
                  .mask_penalty = mask_penalty,
                  .num_logprobs = num_logprobs,
                  .token = token,
                  .logprob = logprob,
                  .rank = rank,
                  .top_tokens = {},
                  .top_logprobs = {}};
  if (alternatives > 0) {
    args.top_tokens = top_tokens;
    args.top_logprobs = top_logprobs;
  }
  sample(args);
  const std::vector<int32_t> tokens = token.Ints();
  const std::vector<float> logprobs = logprob.Floats();
  const std::vector<int32_t> ranks = rank.Ints();
  const std::vector<int32_t> all_top_tokens = top_tokens.Ints();
  const std::vector<float> all_top_logprobs = top_logprobs.Floats();
  masks.ExpectUnchanged();
  logits_tensor.Floats();  // Checks its guards; the rows themselves are scratch.
  std::vector<SampledRow> sampled;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t begin = i * alternatives;
    sampled.push_back(
        {tokens[i],
         logprobs[i],
         ranks[i],
         {all_top_tokens.begin() + begin, all_top_tokens.begin() + begin + alternatives},
         {all_top_logprobs.begin() + begin, all_top_logprobs.begin() + begin + alternatives},
         {}});
  }
  table.listed = penalty_listed.Ints();
  table.counts = penalty_counts.Ints();
  TakeCounts(table, &sampled);
  return sampled;
}

}  // namespace

std::vector<SampledRow> Sample(Ops& ops, const std::vector<SampleRowCase>& rows) {
  return SampleOn(ops.device(), rows, [&](const SampleArgs& args) { ops.Sample(args); });
}

double SecondsToSample(
    Ops& ops, const SampleRowCase& row,
    const std::function<double(const std::function<void()>&)>& seconds_per_call) {
  double seconds = 0;
  SampleOn(ops.device(), {row}, [&](const SampleArgs& args) {
    // The call may leave anything in the logits, and lists one more token with every draw; both are
    // brought back from copies each time.
    const int64_t vocab = args.logits.dim(1);
    const TestTensor copy(ops.device(), DType::kF32, {1, vocab}, row.logits);
    const TestTensor zero = TestTensor::Ints(ops.device(), {1}, {0});
    const std::vector<int32_t> listed = DownloadInts(ops.device(), args.penalty_listed);
    const TestTensor listed_copy = TestTensor::Ints(
        ops.device(), {args.penalty_listed.dim(0), args.penalty_listed.dim(1)}, listed);
    const TestTensor slots = TestTensor::Ints(ops.device(), {2}, {0, 1});
    const auto restore = [&] {
      ops.GatherRows({.x = copy, .rows = zero, .out = args.logits});
      ops.GatherRows({.x = listed_copy, .rows = slots, .out = args.penalty_listed});
    };
    const double both = seconds_per_call([&] {
      restore();
      ops.Sample(args);
    });
    seconds = both - seconds_per_call(restore);
  });
  return seconds;
}

std::vector<SampledRow> SampleOnHost(const std::vector<SampleRowCase>& rows,
                                     const std::function<void(const SampleArgs&)>& sample) {
  HostDevice device;
  return SampleOn(device, rows, sample);
}

std::vector<SampledRow> SampleByRow(const std::vector<SampleRowCase>& rows) {
  return SampleOnHost(rows, [](const SampleArgs& args) {
    for (int64_t n = 0; n < args.logits.dim(0); ++n) SampleRow(args, n);
  });
}

}  // namespace tessera::test
