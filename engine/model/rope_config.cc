#include "engine/model/rope_config.h"

#include <optional>
#include <string>

#include "engine/files/message.h"

namespace tessera {
namespace {

constexpr NumberRange kThetaRange{1.0 + 1e-6, 1e15};
constexpr NumberRange kFactorRange{1, 65536};
constexpr NumberRange kBetaRange{1e-6, 1e6};
constexpr NumberRange kScaleRange{0, 1e3};
constexpr IntRange kPositionRange{1, 1 << 30};

std::optional<RopeType> ParseRopeType(std::string_view name) {
  if (name == "default") return RopeType::kDefault;
  if (name == "linear") return RopeType::kLinear;
  if (name == "yarn") return RopeType::kYarn;
  if (name == "llama3") return RopeType::kLlama3;
  return std::nullopt;
}

void ReadType(const JsonFields& scaling, RopeConfig& rope) {
  const std::string_view key = scaling.Has("rope_type") ? "rope_type" : "type";
  const std::string name = scaling.String(key, "default");
  const std::optional<RopeType> type = ParseRopeType(name);
  if (!type) {
    scaling.Fail(key, Message("is \"", name.substr(0, 60),
                              "\"; only default, linear, yarn and llama3 are supported"));
    return;
  }
  rope.type = *type;
}

double RequiredNumber(const JsonFields& scaling, std::string_view key, NumberRange range) {
  if (!scaling.Has(key)) scaling.Fail(key, "is missing");
  return scaling.Number(key, range.min, range);
}

void ReadYarn(const JsonFields& scaling, int32_t max_position_embeddings, RopeConfig& rope) {
  rope.original_max_position_embeddings =
      scaling.Int("original_max_position_embeddings", max_position_embeddings, kPositionRange);
  // A null factor is what the two lengths say.
  const double implied = static_cast<double>(max_position_embeddings) /
                         static_cast<double>(rope.original_max_position_embeddings);
  rope.factor = scaling.Number("factor", implied, kFactorRange);
  if (rope.factor < 1) {
    scaling.Fail("factor",
                 "is missing and max_position_embeddings is less than "
                 "original_max_position_embeddings");
  }
  rope.beta_fast = scaling.Number("beta_fast", 32, kBetaRange);
  rope.beta_slow = scaling.Number("beta_slow", 1, kBetaRange);
  if (rope.beta_fast < rope.beta_slow) {
    scaling.Fail("beta_fast", "is less than beta_slow");
  }
  rope.attention_factor = scaling.OptionalNumber("attention_factor", {1e-6, kScaleRange.max});
  rope.mscale = scaling.Number("mscale", 0, kScaleRange);
  rope.mscale_all_dim = scaling.Number("mscale_all_dim", 0, kScaleRange);
  rope.attn_factor = scaling.Number("attn_factor", 1, {1e-6, kScaleRange.max});
  rope.truncate = scaling.Bool("truncate", true);
}

void ReadLlama3(const JsonFields& scaling, RopeConfig& rope) {
  rope.factor = RequiredNumber(scaling, "factor", kFactorRange);
  rope.low_freq_factor = RequiredNumber(scaling, "low_freq_factor", kBetaRange);
  rope.high_freq_factor = RequiredNumber(scaling, "high_freq_factor", kBetaRange);
  if (rope.high_freq_factor <= rope.low_freq_factor) {
    scaling.Fail("high_freq_factor", "must be greater than low_freq_factor");
  }
  if (!scaling.Has("original_max_position_embeddings")) {
    scaling.Fail("original_max_position_embeddings", "is missing");
  }
  rope.original_max_position_embeddings =
      scaling.Int("original_max_position_embeddings", 1, kPositionRange);
}

void CheckExtendedLength(const JsonFields& scaling, int32_t max_position_embeddings,
                         const RopeConfig& rope) {
  double length = 0;
  if (rope.type == RopeType::kLinear) length = rope.factor * max_position_embeddings;
  if (rope.type == RopeType::kYarn) length = rope.factor * rope.original_max_position_embeddings;
  if (length > static_cast<double>(kPositionRange.max)) {
    scaling.Fail("factor", Message("extends the context to ", length, " positions, more than ",
                                   kPositionRange.max));
  }
}

}  // namespace

RopeConfig ReadRopeConfig(const JsonFields& fields, int32_t max_position_embeddings) {
  RopeConfig rope;
  const std::optional<JsonFields> parameters = fields.Object("rope_parameters");
  const std::optional<JsonFields> scaling = parameters ? parameters : fields.Object("rope_scaling");
  // No default: a wrong base gives fluent nonsense, so a file without one is refused.
  const bool nested = scaling && scaling->Has("rope_theta") &&
                      (parameters.has_value() || !fields.Has("rope_theta"));
  const JsonFields& theta_owner = nested ? *scaling : fields;
  rope.theta = RequiredNumber(theta_owner, "rope_theta", kThetaRange);
  if (!scaling) return rope;

  ReadType(*scaling, rope);
  if (scaling->Number("partial_rotary_factor", 1.0, {0, 1}) != 1.0) {
    scaling->Fail("partial_rotary_factor", "is not 1; Qwen3 rotates whole heads");
  }
  switch (rope.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      rope.factor = RequiredNumber(*scaling, "factor", kFactorRange);
      break;
    case RopeType::kYarn:
      ReadYarn(*scaling, max_position_embeddings, rope);
      break;
    case RopeType::kLlama3:
      ReadLlama3(*scaling, rope);
      break;
  }
  CheckExtendedLength(*scaling, max_position_embeddings, rope);
  return rope;
}

}  // namespace tessera
