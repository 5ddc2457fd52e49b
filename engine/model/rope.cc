#include "engine/model/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "kernels/core/status_macros.h"

namespace tessera {
namespace {

// theta^(2j / D), rounded to float32 once.
float Wavelength(const ModelConfig& config, int32_t pair) {
  const float exponent = static_cast<float>(2 * pair) / static_cast<float>(config.head_dim);
  return static_cast<float>(std::pow(config.rope.theta, static_cast<double>(exponent)));
}

// How far YaRN stretches: score scale for a context `scale` times the trained one.
double YarnScale(double scale, double mscale) {
  return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0;
}

float YarnAttentionFactor(const RopeConfig& rope) {
  if (rope.attention_factor) return static_cast<float>(*rope.attention_factor);
  double factor = YarnScale(rope.factor, 1.0);
  if (rope.mscale != 0 && rope.mscale_all_dim != 0) {
    factor = YarnScale(rope.factor, rope.mscale) / YarnScale(rope.factor, rope.mscale_all_dim);
  }
  return static_cast<float>(factor * rope.attn_factor);
}

// The pairs between which YaRN blends from unscaled to scaled frequencies.
struct YarnRange {
  double low;
  double high;
};

YarnRange FindYarnRange(const ModelConfig& config) {
  const RopeConfig& rope = config.rope;
  // The pair that makes `rotations` turns over the original length.
  const auto pair_of = [&](double rotations) {
    const double turns = rope.original_max_position_embeddings / (2 * std::numbers::pi * rotations);
    return config.head_dim * std::log(turns) / (2 * std::log(rope.theta));
  };
  YarnRange range{pair_of(rope.beta_fast), pair_of(rope.beta_slow)};
  if (rope.truncate) range = {std::floor(range.low), std::ceil(range.high)};
  range.low = std::max(range.low, 0.0);
  range.high = std::min(range.high, static_cast<double>(config.head_dim - 1));
  if (range.low == range.high) range.high += 0.001;
  return range;
}

float YarnFrequency(const ModelConfig& config, const YarnRange& range, int32_t pair) {
  const float wavelength = Wavelength(config, pair);
  const float unscaled = 1.0F / wavelength;
  const float scaled = 1.0F / (static_cast<float>(config.rope.factor) * wavelength);
  const float ramp =
      std::clamp(static_cast<float>(pair - range.low) / static_cast<float>(range.high - range.low),
                 0.0F, 1.0F);
  return scaled * ramp + unscaled * (1.0F - ramp);
}

float Llama3Frequency(const ModelConfig& config, int32_t pair) {
  const RopeConfig& rope = config.rope;
  const float unscaled = 1.0F / Wavelength(config, pair);
  const float factor = static_cast<float>(rope.factor);
  const float low = static_cast<float>(rope.low_freq_factor);
  const float high = static_cast<float>(rope.high_freq_factor);
  const float original = static_cast<float>(rope.original_max_position_embeddings);
  const float turn = static_cast<float>(2 * std::numbers::pi) / unscaled;
  if (turn < original / high) return unscaled;
  if (turn > original / low) return unscaled / factor;
  const float blend = (original / turn - low) / (high - low);
  return (1.0F - blend) * unscaled / factor + blend * unscaled;
}

}  // namespace

RopeTable ComputeRope(const ModelConfig& config) {
  RopeTable table;
  table.inv_freq.resize(static_cast<size_t>(config.head_dim / 2));
  const RopeConfig& rope = config.rope;
  const bool yarn = rope.type == RopeType::kYarn;
  const YarnRange range = yarn ? FindYarnRange(config) : YarnRange{0, 0};
  if (yarn) table.attention_factor = YarnAttentionFactor(rope);
  for (int32_t pair = 0; pair < config.head_dim / 2; ++pair) {
    float& frequency = table.inv_freq[static_cast<size_t>(pair)];
    switch (rope.type) {
      case RopeType::kDefault:
        frequency = 1.0F / Wavelength(config, pair);
        break;
      case RopeType::kLinear:
        frequency = 1.0F / Wavelength(config, pair) / static_cast<float>(rope.factor);
        break;
      case RopeType::kYarn:
        frequency = YarnFrequency(config, range, pair);
        break;
      case RopeType::kLlama3:
        frequency = Llama3Frequency(config, pair);
        break;
    }
  }
  return table;
}

std::vector<float> BuildCosSinTable(const RopeTable& rope, int32_t head_dim,
                                    int64_t num_positions) {
  const size_t half = rope.inv_freq.size();
  TESSERA_CHECK(head_dim == static_cast<int32_t>(2 * half) && num_positions >= 0);
  std::vector<float> table(static_cast<size_t>(num_positions) * 2 * half);
  for (size_t position = 0; position < static_cast<size_t>(num_positions); ++position) {
    float* row = table.data() + position * 2 * half;
    for (size_t pair = 0; pair < half; ++pair) {
      const float angle = static_cast<float>(position) * rope.inv_freq[pair];
      row[pair] = std::cos(angle) * rope.attention_factor;
      row[half + pair] = std::sin(angle) * rope.attention_factor;
    }
  }
  return table;
}

}  // namespace tessera
