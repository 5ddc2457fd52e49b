#include "engine/quantization/dequantize.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/engine/checkpoint/model_folder.h"
#include "tests/engine/quantization/stored_tensors.h"

namespace tessera {
namespace {

using ::testing::HasSubstr;

// A matrix of every format with its definition beside it: W[n, k] by the letter, one at a time.
struct Example {
  QuantizationScheme scheme;
  int64_t rows = 0;
  int64_t cols = 0;
  StoredTensors tensors;  // names behind "m."
  std::function<double(int64_t n, int64_t k)> value;
};

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int64_t Below(int64_t bound) { return Between(0, bound - 1); }
  int64_t Between(int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(engine_);
  }
  template <typename T>
  std::vector<T> Values(int64_t count, int64_t low, int64_t high) {
    std::vector<T> values(static_cast<size_t>(count));
    for (T& value : values) value = static_cast<T>(Between(low, high));
    return values;
  }
  // Positive, exact in all three types of scales.
  std::vector<float> Scales(int64_t count) {
    std::vector<float> scales;
    for (int64_t i = 0; i < count; ++i) {
      scales.push_back(static_cast<float>(Between(64, 127)) / 4096);
    }
    return scales;
  }

 private:
  std::mt19937_64 engine_;
};

TensorBytes ScaleTensor(const std::vector<int64_t>& shape, const std::vector<float>& scales,
                        Random* random) {
  if (random->Below(2) == 0) return MakeTensor("F32", shape, scales);
  std::vector<uint16_t> bits;
  for (const float scale : scales) bits.push_back(FloatToBF16(scale));
  return MakeTensor("BF16", shape, bits);
}

// Codes [a, b] of `bits` bits in words along the first or the second dimension.
std::vector<uint32_t> Pack(const std::vector<int>& codes, int64_t a, int64_t b, int bits,
                           bool along_first) {
  const int64_t per_word = 32 / bits;
  const int64_t wa = along_first ? (a + per_word - 1) / per_word : a;
  const int64_t wb = along_first ? b : (b + per_word - 1) / per_word;
  std::vector<uint32_t> words(static_cast<size_t>(wa * wb));
  for (int64_t i = 0; i < a; ++i) {
    for (int64_t j = 0; j < b; ++j) {
      const int64_t word = along_first ? i / per_word * wb + j : i * wb + j / per_word;
      const int64_t place = (along_first ? i : j) % per_word;
      words[static_cast<size_t>(word)] |=
          static_cast<uint32_t>(codes[static_cast<size_t>(i * b + j)]) << (bits * place);
    }
  }
  return words;
}

double E4m3(uint8_t code) {
  const int exponent = (code >> 3) & 15;
  const double mantissa = code & 7;
  const double magnitude =
      exponent == 0 ? mantissa / 512 : (1 + mantissa / 8) * std::pow(2.0, exponent - 7);
  return (code & 0x80) != 0 ? -magnitude : magnitude;
}

Example Fp8Example(Random* random) {
  Example example{.scheme = {.layout = QuantizedLayout::kFp8, .scales = ScaleUnit::kBlock},
                  .rows = random->Between(1, 40),
                  .cols = random->Between(1, 70)};
  const auto br = random->Between(1, 17);
  const auto bc = random->Between(1, 33);
  example.scheme.block_rows = static_cast<int32_t>(br);
  example.scheme.block_cols = static_cast<int32_t>(bc);
  const int64_t across = (example.cols + bc - 1) / bc;
  const int64_t blocks = (example.rows + br - 1) / br * across;
  auto codes = random->Values<uint8_t>(example.rows * example.cols, 0, 255);
  for (uint8_t& code : codes) code = (code & 0x7F) == 0x7F ? 0x80 : code;
  const auto scales = random->Scales(blocks);
  example.tensors["weight"] = MakeTensor("F8_E4M3", {example.rows, example.cols}, codes);
  example.tensors["weight_scale_inv"] = ScaleTensor({blocks / across, across}, scales, random);
  example.value = [=, cols = example.cols](int64_t n, int64_t k) {
    return E4m3(codes[static_cast<size_t>(n * cols + k)]) *
           scales[static_cast<size_t>(n / br * across + k / bc)];
  };
  return example;
}

Example Int8Example(Random* random) {
  const bool per_row = random->Below(2) == 0;
  Example example{.scheme = {.layout = QuantizedLayout::kInt8,
                             .scales = per_row ? ScaleUnit::kRow : ScaleUnit::kTensor},
                  .rows = random->Between(1, 40),
                  .cols = random->Between(1, 70)};
  const auto codes = random->Values<int8_t>(example.rows * example.cols, -128, 127);
  const auto scales = random->Scales(per_row ? example.rows : 1);
  example.tensors["weight"] = MakeTensor("I8", {example.rows, example.cols}, codes);
  example.tensors["weight_scale"] = ScaleTensor(
      per_row ? std::vector<int64_t>{example.rows, 1} : std::vector<int64_t>{1}, scales, random);
  example.value = [=, cols = example.cols](int64_t n, int64_t k) {
    return codes[static_cast<size_t>(n * cols + k)] *
           static_cast<double>(scales[per_row ? static_cast<size_t>(n) : 0]);
  };
  return example;
}

Example PackedExample(Random* random) {
  Example example{.scheme = {.layout = QuantizedLayout::kPacked, .scales = ScaleUnit::kGroup}};
  const int bits = random->Below(2) == 0 ? 4 : 8;
  const int64_t groups = random->Between(1, 4);
  const int64_t size = random->Between(1, 20);
  const bool ordered = random->Below(2) == 0;
  const bool symmetric = random->Below(2) == 0;
  example.rows = random->Between(1, 40);
  example.cols = groups * size;
  example.scheme.bits = bits;
  example.scheme.group_size = static_cast<int32_t>(size);
  example.scheme.symmetric = symmetric;
  example.scheme.negative_scales = symmetric;
  example.scheme.stores_groups = ordered;
  const int half = 1 << (bits - 1);
  const auto codes = random->Values<int>(example.rows * example.cols, -half, half - 1);
  const auto zeros = symmetric ? std::vector<int>(static_cast<size_t>(example.rows * groups), 0)
                               : random->Values<int>(example.rows * groups, -half, half - 1);
  auto scales = random->Scales(example.rows * groups);
  if (symmetric) scales[0] = -scales[0];
  const auto offset = [half](std::vector<int> values) {
    for (int& value : values) value += half;
    return values;
  };
  const int64_t per_word = 32 / bits;
  example.tensors["weight_packed"] =
      MakeTensor("I32", {example.rows, (example.cols + per_word - 1) / per_word},
                 Pack(offset(codes), example.rows, example.cols, bits, false));
  example.tensors["weight_scale"] = ScaleTensor({example.rows, groups}, scales, random);
  example.tensors["weight_shape"] =
      MakeTensor("I64", {2}, std::vector<int64_t>{example.rows, example.cols});
  if (!symmetric) {
    example.tensors["weight_zero_point"] =
        MakeTensor("I32", {(example.rows + per_word - 1) / per_word, groups},
                   Pack(offset(zeros), example.rows, groups, bits, true));
  }
  std::vector<int32_t> group(static_cast<size_t>(example.cols));
  for (int64_t k = 0; k < example.cols; ++k) {
    group[static_cast<size_t>(k)] =
        static_cast<int32_t>(ordered ? random->Below(groups) : k / size);
  }
  if (ordered) example.tensors["weight_g_idx"] = MakeTensor("I32", {example.cols}, group);
  example.value = [=, cols = example.cols](int64_t n, int64_t k) {
    const auto at = static_cast<size_t>(n * groups + group[static_cast<size_t>(k)]);
    return (codes[static_cast<size_t>(n * cols + k)] - zeros[at]) * static_cast<double>(scales[at]);
  };
  return example;
}

Example GptqExample(Random* random) {
  Example example{.scheme = {.layout = QuantizedLayout::kGptq,
                             .scales = ScaleUnit::kGroup,
                             .symmetric = false}};
  const int bits = random->Below(2) == 0 ? 4 : 8;
  const int64_t per_word = 32 / bits;
  const bool first_format = random->Below(2) == 0;
  const bool ordered = random->Below(2) == 0;
  example.rows = per_word * random->Between(1, 5);
  example.cols = per_word * random->Between(1, 9);
  const int64_t size = random->Below(4) == 0 ? example.cols : random->Between(1, example.cols);
  example.scheme.bits = bits;
  example.scheme.group_size = size == example.cols ? -1 : static_cast<int32_t>(size);
  example.scheme.zeros_less_one = first_format;
  const int64_t groups = (example.cols + size - 1) / size;
  const int most = (1 << bits) - 1;
  const auto codes = random->Values<int>(example.cols * example.rows, 0, most);  // [K, N]
  const auto stored = random->Values<int>(groups * example.rows, 0, most - 1);
  const auto scales = random->Scales(groups * example.rows);
  example.tensors["qweight"] = MakeTensor("I32", {example.cols / per_word, example.rows},
                                          Pack(codes, example.cols, example.rows, bits, true));
  example.tensors["qzeros"] = MakeTensor("I32", {groups, example.rows / per_word},
                                         Pack(stored, groups, example.rows, bits, false));
  example.tensors["scales"] = ScaleTensor({groups, example.rows}, scales, random);
  std::vector<int32_t> group(static_cast<size_t>(example.cols));
  for (int64_t k = 0; k < example.cols; ++k) {
    group[static_cast<size_t>(k)] =
        static_cast<int32_t>(ordered ? random->Below(groups) : k / size);
  }
  if (ordered || random->Below(2) == 0) {
    example.tensors["g_idx"] = MakeTensor("I32", {example.cols}, group);
  }
  if (random->Below(2) == 0) {
    example.tensors["bias"] = MakeTensor("F16", {example.rows},
                                         std::vector<uint16_t>(example.tensors["scales"].shape[1]));
  }
  example.value = [=, rows = example.rows](int64_t n, int64_t k) {
    const auto at = static_cast<size_t>(group[static_cast<size_t>(k)] * rows + n);
    return (codes[static_cast<size_t>(k * rows + n)] - stored[at] - (first_format ? 1 : 0)) *
           static_cast<double>(scales[at]);
  };
  return example;
}

Example AwqExample(Random* random) {
  constexpr int kColumn[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  Example example{.scheme = {.layout = QuantizedLayout::kAwq,
                             .bits = 4,
                             .scales = ScaleUnit::kGroup,
                             .symmetric = false},
                  .rows = 8 * random->Between(1, 5)};
  const int64_t groups = random->Between(1, 4);
  const int64_t size = random->Between(1, 20);
  example.cols = groups * size;
  example.scheme.group_size = static_cast<int32_t>(size);
  const int64_t rows = example.rows;
  const auto codes = random->Values<int>(example.cols * rows, 0, 15);
  const auto zeros = random->Values<int>(groups * rows, 0, 15);
  const auto scales = random->Scales(groups * rows);
  const auto shuffled = [&](const std::vector<int>& values) {
    std::vector<int> out(values.size());
    for (size_t i = 0; i < values.size(); ++i) {
      out[i] = values[i / 8 * 8 + static_cast<size_t>(kColumn[i % 8])];
    }
    return out;
  };
  example.tensors["qweight"] = MakeTensor("I32", {example.cols, rows / 8},
                                          Pack(shuffled(codes), example.cols, rows, 4, false));
  example.tensors["qzeros"] =
      MakeTensor("I32", {groups, rows / 8}, Pack(shuffled(zeros), groups, rows, 4, false));
  example.tensors["scales"] = ScaleTensor({groups, rows}, scales, random);
  example.value = [=](int64_t n, int64_t k) {
    const auto at = static_cast<size_t>(k / size * rows + n);
    return (codes[static_cast<size_t>(k * rows + n)] - zeros[at]) * static_cast<double>(scales[at]);
  };
  return example;
}

// The example in a checkpoint of its own.
struct Opened {
  ModelFolder folder;
  std::unique_ptr<Checkpoint> checkpoint;
  ModuleSearch found;
};

std::unique_ptr<Opened> Open(const Example& example) {
  auto opened = std::make_unique<Opened>();
  StoredTensors named;
  for (const auto& [suffix, tensor] : example.tensors) named["m." + suffix] = tensor;
  opened->folder.Write("model.safetensors", FileOf(named));
  opened->checkpoint = Checkpoint::Open(opened->folder.path()).value();
  QuantizationConfig config{.method = "fp8"};
  config.groups = {{.targets = {{.kind = ModulePattern::Kind::kLinear}}, .scheme = example.scheme}};
  opened->found = FindModule(*opened->checkpoint, ModuleRules::Create(config).value(),
                             {.name = "m", .rows = example.rows, .cols = example.cols});
  return opened;
}

struct Maker {
  const char* name;
  Example (*make)(Random* random);
};
class DequantizeTest : public testing::TestWithParam<Maker> {};

TEST_P(DequantizeTest, EverySliceHoldsWhatTheFormatDefines) {
  for (uint64_t seed = 0; seed < 60; ++seed) {
    SCOPED_TRACE(seed);
    Random random(seed);
    const Example example = GetParam().make(&random);
    const auto opened = Open(example);
    ASSERT_FALSE(opened->found.fault)
        << opened->found.fault->tensor << " " << opened->found.fault->what;
    for (int slices = 0; slices < 4; ++slices) {
      MatrixSlice slice{0, example.rows, 0, example.cols};
      if (slices > 0) {
        slice.row_begin = random.Below(example.rows);
        slice.num_rows = random.Between(0, example.rows - slice.row_begin);
        slice.column_begin = random.Below(example.cols);
        slice.num_columns = random.Between(1, example.cols - slice.column_begin);
      }
      const auto count = static_cast<size_t>(slice.num_rows * slice.num_columns);
      constexpr float kGuard = 12345;
      std::vector<float> exact(count + 8, kGuard);
      std::vector<uint16_t> rounded(count + 8, 7);
      ASSERT_TRUE(Dequantize(opened->found.module, slice,
                             {DType::kF32, reinterpret_cast<std::byte*>(exact.data())})
                      .ok());
      ASSERT_TRUE(Dequantize(opened->found.module, slice,
                             {DType::kBF16, reinterpret_cast<std::byte*>(rounded.data())})
                      .ok());
      for (size_t i = 0; i < count; ++i) {
        const auto at = static_cast<int64_t>(i);
        const auto expected = static_cast<float>(example.value(
            slice.row_begin + at / slice.num_columns, slice.column_begin + at % slice.num_columns));
        ASSERT_EQ(exact[i], expected) << i;
        ASSERT_EQ(rounded[i], FloatToBF16(expected)) << i;
      }
      for (size_t i = count; i < exact.size(); ++i) ASSERT_EQ(exact[i], kGuard);
      for (size_t i = count; i < rounded.size(); ++i) ASSERT_EQ(rounded[i], 7);
    }
    EXPECT_TRUE(CheckValues(opened->found.module).ok());
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, DequantizeTest,
                         testing::Values(Maker{"fp8", Fp8Example}, Maker{"int8", Int8Example},
                                         Maker{"packed", PackedExample}, Maker{"gptq", GptqExample},
                                         Maker{"awq", AwqExample}),
                         [](const auto& tested) { return tested.param.name; });

// What Dequantize says of an example that `spoil` has changed.
std::string Words(Example example, const std::function<void(Example&)>& spoil) {
  spoil(example);
  const auto opened = Open(example);
  if (opened->found.fault) return opened->found.fault->tensor + ": " + opened->found.fault->what;
  return std::string(CheckValues(opened->found.module).message());
}

// The first example of the maker with the tensor.
Example With(Example (*make)(Random*), const std::string& suffix) {
  for (uint64_t seed = 100;; ++seed) {
    Random random(seed);
    Example example = make(&random);
    if (example.tensors.contains(suffix)) return example;
  }
}

TEST(DequantizeFaultTest, CodesAndScalesThatAreNoNumbers) {
  EXPECT_THAT(
      Words(With(Fp8Example, "weight"), [](Example& e) { e.tensors["weight"].bytes[0] = 0x7F; }),
      HasSubstr("tensor \"m.weight\": a code is NaN"));
  EXPECT_THAT(Words(With(Fp8Example, "weight"),
                    [](Example& e) { e.tensors["weight"].bytes.back() = static_cast<char>(0xFF); }),
              HasSubstr("tensor \"m.weight\": a code is NaN"));
  for (const auto make : {Fp8Example, Int8Example, PackedExample, GptqExample, AwqExample}) {
    for (const float scale : {std::nanf(""), -std::numeric_limits<float>::infinity()}) {
      const auto spoil = [scale](Example& e) {
        for (const char* name : {"weight_scale_inv", "weight_scale", "scales"}) {
          if (!e.tensors.contains(name)) continue;
          if (e.tensors[name].dtype == "F32") e.tensors[name].Set<float>(0, scale);
          if (e.tensors[name].dtype == "BF16") {
            e.tensors[name].Set<uint16_t>(0, FloatToBF16(scale));
          }
        }
      };
      EXPECT_THAT(
          Words(With(make, make(std::make_unique<Random>(1).get()).tensors.begin()->first), spoil),
          HasSubstr("a scale is NaN or infinite"));
    }
  }
}

// Signs and zeros that no tool writes, and those that some do.
TEST(DequantizeFaultTest, ScalesThatCannotBe) {
  const auto set = [](const std::string& name, float scale) {
    return [name, scale](Example& e) {
      std::vector<float> scales(
          e.tensors[name].bytes.size() / (e.tensors[name].dtype == "F32" ? 4 : 2), 0.01F);
      scales[0] = scale;
      e.tensors[name] = MakeTensor("F32", e.tensors[name].shape, scales);
      // The codes under it are not zero.
      if (e.tensors.contains("weight")) e.tensors["weight"].bytes[0] = 1;
    };
  };
  EXPECT_THAT(Words(With(Fp8Example, "weight"), set("weight_scale_inv", -0.5F)),
              HasSubstr("tensor \"m.weight_scale_inv\": a scale is negative (-0.5)"));
  EXPECT_THAT(Words(With(Int8Example, "weight"), set("weight_scale", -1)), HasSubstr("negative"));
  EXPECT_THAT(Words(With(PackedExample, "weight_zero_point"), set("weight_scale", -1)),
              HasSubstr("negative"));
  EXPECT_THAT(Words(With(AwqExample, "scales"), set("scales", -1)), HasSubstr("negative"));
  EXPECT_THAT(Words(With(Fp8Example, "weight"), set("weight_scale_inv", 0)),
              HasSubstr("tensor \"m.weight_scale_inv\": a scale is zero, but the codes"));
  EXPECT_THAT(Words(With(Int8Example, "weight"), set("weight_scale", 0)),
              HasSubstr("is zero, but"));
  // Half precision underflows.
  EXPECT_EQ(Words(With(GptqExample, "scales"), set("scales", 0)), "");
  EXPECT_EQ(Words(With(AwqExample, "scales"), set("scales", 0)), "");
}

TEST(DequantizeFaultTest, GroupsZerosShapesAndBiases) {
  for (const int32_t group : {-1, 1000, 0x7FFFFFFF}) {
    EXPECT_THAT(Words(With(GptqExample, "g_idx"),
                      [group](Example& e) { e.tensors["g_idx"].Set<int32_t>(1, group); }),
                HasSubstr("tensor \"m.g_idx\": says that input 1 belongs to group"));
    EXPECT_THAT(Words(With(PackedExample, "weight_g_idx"),
                      [group](Example& e) { e.tensors["weight_g_idx"].Set<int32_t>(0, group); }),
                HasSubstr("tensor \"m.weight_g_idx\": says that input 0 belongs to group"));
  }
  EXPECT_THAT(Words(With(GptqExample, "qzeros"),
                    [](Example& e) {
                      e.scheme.zeros_less_one = true;
                      e.tensors["qzeros"].Set<uint32_t>(0, 0xFFFFFFFF);
                    }),
              HasSubstr("tensor \"m.qzeros\": a zero point is stored with all bits set"));
  EXPECT_THAT(Words(With(PackedExample, "weight_shape"),
                    [](Example& e) { e.tensors["weight_shape"].Set<int64_t>(1, 3); }),
              HasSubstr("tensor \"m.weight_shape\": says ["));
  EXPECT_THAT(Words(With(GptqExample, "bias"),
                    [](Example& e) { e.tensors["bias"].Set<uint16_t>(2, 0x3C00); }),
              HasSubstr("tensor \"m.bias\": is not zero"));
}

TEST(DequantizeFaultTest, ZeroPointsOfSymmetricCodesMustBeZero) {
  const auto with_zeros = [](int8_t zero) {
    return [zero](Example& e) {
      std::vector<int8_t> zeros(static_cast<size_t>(e.rows), 0);
      zeros.back() = zero;
      e.scheme.scales = ScaleUnit::kRow;
      e.tensors["weight_scale"] =
          MakeTensor("F32", {e.rows, 1}, std::vector<float>(static_cast<size_t>(e.rows), 1.0F));
      e.tensors["weight_zero_point"] = MakeTensor("I8", {e.rows, 1}, zeros);
    };
  };
  EXPECT_EQ(Words(With(Int8Example, "weight"), with_zeros(0)), "");
  EXPECT_THAT(Words(With(Int8Example, "weight"), with_zeros(1)),
              HasSubstr("tensor \"m.weight_zero_point\": is not zero"));
}

// Every tensor of every format, cut short, turned round or gone.
TEST(DequantizeFaultTest, TensorsOfOtherShapes) {
  for (const auto make : {Fp8Example, Int8Example, PackedExample, GptqExample, AwqExample}) {
    Random random(7);
    const Example example = make(&random);
    for (const auto& entry : example.tensors) {
      const std::string& name = entry.first;
      if (name == "bias" || name == "g_idx") continue;  // optional
      EXPECT_THAT(Words(example, [&](Example& e) { e.tensors.erase(name); }),
                  HasSubstr("m." + name + ": missing"));
    }
    for (const auto& entry : example.tensors) {
      const std::string& name = entry.first;
      const auto longer = [&](Example& e) {
        TensorBytes& tensor = e.tensors[name];
        tensor.bytes += tensor.bytes;
        tensor.shape[0] *= 2;
      };
      EXPECT_THAT(Words(example, longer), HasSubstr("m." + name + ": has shape ["));
      const auto retyped = [&](Example& e) {
        TensorBytes& tensor = e.tensors[name];
        tensor.shape.insert(tensor.shape.end(), 3, 1);
      };
      EXPECT_THAT(Words(example, retyped), HasSubstr("m." + name + ": has shape ["));
    }
  }
}

TEST(DequantizeFaultTest, GroupsAndWordsThatDoNotDivide) {
  EXPECT_THAT(Words(With(AwqExample, "scales"),
                    [](Example& e) { e.scheme.group_size = static_cast<int32_t>(e.cols) + 1; }),
              HasSubstr("m.qweight: groups of"));
  EXPECT_THAT(Words(With(PackedExample, "weight_shape"),
                    [](Example& e) { e.scheme.group_size = static_cast<int32_t>(e.cols) + 1; }),
              HasSubstr("m.weight_packed: groups of"));
  EXPECT_THAT(Words(With(GptqExample, "scales"), [](Example& e) { e.cols += 1; }),
              HasSubstr("codes do not divide its"));
  EXPECT_THAT(Words(With(AwqExample, "scales"), [](Example& e) { e.rows += 1; }),
              HasSubstr("m.qweight: words of 8 codes do not divide its"));
}

}  // namespace
}  // namespace tessera
