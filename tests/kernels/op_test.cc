#include "tests/kernels/op_test.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <ostream>

#include "kernels/cpu/isa/isa.h"

namespace tessera::test {
namespace {

constexpr size_t kGuardBytes = 256;
constexpr char kPoison = static_cast<char>(0xFF);

int64_t Product(const std::vector<int64_t>& dims, size_t begin) {
  int64_t product = 1;
  for (size_t i = begin; i < dims.size(); ++i) product *= dims[i];
  return product;
}

// A contiguous view, or a column range of a wider matrix when there is a gap.
TensorView MakeView(void* data, DType dtype, const std::vector<int64_t>& dims, int64_t row_gap) {
  if (row_gap > 0) {
    TESSERA_CHECK(dims.size() == 2);
    return TensorView(data, dtype, {dims[0], dims[1] + row_gap}).Columns(0, dims[1]);
  }
  switch (dims.size()) {
    case 1:
      return {data, dtype, {dims[0]}};
    case 2:
      return {data, dtype, {dims[0], dims[1]}};
    case 3:
      return {data, dtype, {dims[0], dims[1], dims[2]}};
    default:
      TESSERA_CHECK(dims.size() == 4);
      return {data, dtype, {dims[0], dims[1], dims[2], dims[3]}};
  }
}

}  // namespace

std::vector<float> Random::Normals(int64_t count, float scale) {
  std::vector<float> values(count);
  for (float& value : values) value = Normal(scale);
  return values;
}

void ForSeeds(int cases, const std::function<void(Random&)>& body) {
  const char* only = std::getenv("TESSERA_TEST_SEED");  // NOLINT(concurrency-mt-unsafe)
  const uint64_t first = only == nullptr ? 1 : std::strtoull(only, nullptr, 10);
  const uint64_t count = only == nullptr ? cases : 1;
  for (uint64_t seed = first; seed < first + count; ++seed) {
    SCOPED_TRACE(testing::Message() << "repeat with TESSERA_TEST_SEED=" << seed);
    Random random(seed);
    body(random);
    if (testing::Test::HasFatalFailure()) return;
  }
}

float RoundTo(DType dtype, float value) {
  return dtype == DType::kBF16 ? BF16ToFloat(FloatToBF16(value)) : value;
}

std::vector<float> RoundTo(DType dtype, std::vector<float> values) {
  for (float& value : values) value = RoundTo(dtype, value);
  return values;
}

TestTensor::TestTensor(Device& device, DType dtype, std::vector<int64_t> dims, int64_t row_gap)
    : device_(&device) {
  const int64_t stride = Product(dims, 1) + row_gap;
  const size_t bytes = dims[0] * stride * SizeOf(dtype);
  absl::StatusOr<DeviceBuffer> buffer = device.Allocate(bytes + 2 * kGuardBytes, "a test tensor");
  TESSERA_CHECK(buffer.ok());
  buffer_ = *std::move(buffer);
  view_ = MakeView(static_cast<char*>(buffer_.data()) + kGuardBytes, dtype, dims, row_gap);
  uploaded_.assign(bytes + 2 * kGuardBytes, kPoison);
  device.Upload(buffer_.data(), uploaded_.data(), uploaded_.size());
}

TestTensor::TestTensor(Device& device, DType dtype, std::vector<int64_t> dims,
                       const std::vector<float>& values, int64_t row_gap)
    : TestTensor(device, dtype, std::move(dims), row_gap) {
  TESSERA_CHECK(static_cast<int64_t>(values.size()) == view_.num_elements());
  if (dtype == DType::kF32) {
    UploadRows(values.data(), sizeof(float));
  } else {
    std::vector<uint16_t> rounded(values.size());
    std::transform(values.begin(), values.end(), rounded.begin(), FloatToBF16);
    UploadRows(rounded.data(), sizeof(uint16_t));
  }
}

TestTensor TestTensor::Ints(Device& device, std::vector<int64_t> dims,
                            const std::vector<int32_t>& values) {
  TestTensor tensor(device, DType::kI32, std::move(dims));
  TESSERA_CHECK(static_cast<int64_t>(values.size()) == tensor.view_.num_elements());
  tensor.UploadRows(values.data(), sizeof(int32_t));
  return tensor;
}

TestTensor TestTensor::Longs(Device& device, const std::vector<int64_t>& values) {
  TestTensor tensor(device, DType::kI64, {static_cast<int64_t>(values.size())});
  tensor.UploadRows(values.data(), sizeof(int64_t));
  return tensor;
}

void TestTensor::UploadRows(const void* values, size_t element) {
  if (view_.num_elements() == 0) return;
  const size_t row_bytes = view_.row_size() * element;
  for (int64_t row = 0; row < view_.dim(0); ++row) {
    std::memcpy(uploaded_.data() + kGuardBytes + row * view_.stride0() * element,
                static_cast<const char*>(values) + row * row_bytes, row_bytes);
  }
  device_->Upload(buffer_.data(), uploaded_.data(), uploaded_.size());
}

std::vector<char> TestTensor::Bytes() const {
  std::vector<char> bytes(uploaded_.size());
  device_->Download(bytes.data(), buffer_.data(), bytes.size());
  const absl::Status status = device_->Synchronize();
  EXPECT_TRUE(status.ok()) << status.message();
  const size_t element = SizeOf(view_.dtype());
  const size_t stride = view_.stride0() * element;
  const size_t row = view_.row_size() * element;
  for (size_t i = 0; i < bytes.size(); ++i) {
    const bool outside = i < kGuardBytes || i >= bytes.size() - kGuardBytes;
    if (!outside && (stride == 0 || (i - kGuardBytes) % stride < row)) continue;
    if (bytes[i] == kPoison) continue;
    ADD_FAILURE() << "byte " << static_cast<int64_t>(i) - static_cast<int64_t>(kGuardBytes)
                  << " of a tensor of " << bytes.size() - 2 * kGuardBytes
                  << " bytes was written though it belongs to a guard region or a row gap";
    break;
  }
  return bytes;
}

std::vector<float> TestTensor::Floats() const {
  const std::vector<char> bytes = Bytes();
  const size_t element = SizeOf(view_.dtype());
  std::vector<float> values;
  for (int64_t row = 0; row < view_.dim(0); ++row) {
    for (int64_t column = 0; column < view_.row_size(); ++column) {
      const char* from = bytes.data() + kGuardBytes + (row * view_.stride0() + column) * element;
      if (view_.dtype() == DType::kF32) {
        float value = 0;
        std::memcpy(&value, from, sizeof(value));
        values.push_back(value);
      } else {
        uint16_t bits = 0;
        std::memcpy(&bits, from, sizeof(bits));
        values.push_back(BF16ToFloat(bits));
      }
    }
  }
  return values;
}

template <typename T>
std::vector<T> TestTensor::Elements() const {
  TESSERA_CHECK(SizeOf(view_.dtype()) == sizeof(T) && view_.contiguous());
  const std::vector<char> bytes = Bytes();
  std::vector<T> values(view_.num_elements());
  if (!values.empty()) {
    std::memcpy(values.data(), bytes.data() + kGuardBytes, values.size() * sizeof(T));
  }
  return values;
}

std::vector<int32_t> TestTensor::Ints() const { return Elements<int32_t>(); }
std::vector<int64_t> TestTensor::Longs() const { return Elements<int64_t>(); }

double WorstError(const std::vector<float>& actual, const std::vector<double>& expected) {
  if (actual.size() != expected.size()) return HUGE_VAL;
  double squares = 0;
  for (double value : expected) squares += value * value;
  const double rms = std::sqrt(squares / static_cast<double>(std::max<size_t>(1, expected.size())));
  double worst = 0;
  for (size_t i = 0; i < actual.size(); ++i) {
    if (std::isnan(actual[i]) || std::isnan(expected[i])) return HUGE_VAL;
    const double error = std::abs(actual[i] - expected[i]);
    if (error > 0) worst = std::max(worst, error / (std::abs(expected[i]) + rms));
  }
  return worst;
}

double WorstError(const std::vector<float>& actual, const std::vector<float>& expected) {
  return WorstError(actual, std::vector<double>(expected.begin(), expected.end()));
}

std::unique_ptr<ExpertTable> MakeExpertTable(Ops& ops,
                                             const std::vector<std::unique_ptr<Weight>>& weights) {
  absl::StatusOr<std::unique_ptr<ExpertTable>> table =
      ops.CreateExpertTable({.num_slots = static_cast<int32_t>(weights.size()),
                             .rows = weights[0]->rows(),
                             .cols = weights[0]->cols()});
  TESSERA_CHECK(table.ok());
  for (size_t slot = 0; slot < weights.size(); ++slot) {
    (*table)->Set(static_cast<int32_t>(slot), *weights[slot]);
  }
  return *std::move(table);
}

std::string CaseName(const BackendCase& backend) {
  std::string name =
      backend.cpu_isa == "auto" ? backend.backend : backend.backend + "_" + backend.cpu_isa;
  std::replace(name.begin(), name.end(), '-', '_');
  return name + (backend.model_dtype == DType::kF32 ? "_f32" : "_bf16") + "_" +
         std::to_string(backend.num_threads) + "threads";
}

void PrintTo(const BackendCase& backend, std::ostream* out) { *out << CaseName(backend); }

std::vector<BackendCase> AllBackends() {
  std::vector<BackendCase> cases;
  for (DType dtype : {DType::kF32, DType::kBF16}) {
    for (std::string_view name : LinkedBackends()) {
      // ref and queued compute on one thread whatever they are given.
      if (name != "cpu") cases.push_back({std::string(name), dtype, 1});
    }
    for (cpu::Isa isa : cpu::SupportedIsas()) {
      for (int threads : {1, 3}) {
        cases.push_back({"cpu", dtype, threads, std::string(cpu::IsaName(isa))});
      }
    }
  }
  return cases;
}

void OpTest::SetUp() {
  OpsOptions options;
  options.backend = GetParam().backend;
  options.num_threads = GetParam().num_threads;
  options.cpu_isa = GetParam().cpu_isa;
  absl::StatusOr<std::unique_ptr<Ops>> ops = CreateOps(options);
  ASSERT_TRUE(ops.ok()) << ops.status().message();
  ops_ = *std::move(ops);
  act_ = ops_->ActivationDType(GetParam().model_dtype);
}

std::unique_ptr<Weight> OpTest::Prepare(const std::vector<float>& values, int64_t rows,
                                        int64_t cols) {
  const HostMatrix matrix{values.data(), DType::kF32, rows, cols, cols};
  absl::StatusOr<std::unique_ptr<Weight>> weight =
      ops_->PrepareWeight({.parts = {matrix}, .pad_rows = 0, .dtype = model_dtype()});
  TESSERA_CHECK(weight.ok());
  return *std::move(weight);
}

}  // namespace tessera::test
