// ldmatrix and mma.sync. Layouts of the fragments: PTX ISA, "Matrix multiply-accumulate operation".
#include <cmath>
#include <cstring>

#include "kernels/cuda/emulation/report.h"
#include "kernels/cuda/emulation/shared_memory.h"
#include "kernels/cuda/emulation/warp.h"

namespace tessera::simt::emulation {
namespace {

float FromE4m3(uint8_t bits) {
  const int exponent = bits >> 3 & 15, mantissa = bits & 7;
  const float sign = (bits & 0x80) != 0 ? -1.0F : 1.0F;
  if (exponent == 15 && mantissa == 7) return __builtin_nanf("");
  if (exponent == 0) return sign * std::ldexp(static_cast<float>(mantissa), -9);
  return sign * std::ldexp(static_cast<float>(8 + mantissa), exponent - 10);
}

struct MmaOperand {
  void* d;
  const uint32_t* a;
  uint32_t b[2];
};

void NeedWholeWarp(uint32_t arrived, const char* what) {
  if (arrived != kFullMask) Fail("%s by a part of a warp (%08x)", what, arrived);
}

// d += a b with a [16, K] and b [K, 8]; each register holds K / 8 elements of a row.
template <int kDepth, typename Value, typename From>
void Multiply(uint32_t arrived, void** operands, From from) {
  NeedWholeWarp(arrived, "mma.sync");
  constexpr int kPack = kDepth / 8, kBits = 32 / kPack;
  Value a[16][kDepth], b[kDepth][8], d[16][8];
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const auto& o = *static_cast<MmaOperand*>(operands[lane]);
    const int row = lane / 4, begin = lane % 4 * kPack, pair = lane % 4 * 2;
    for (int i = 0; i < kPack; ++i) {
      const auto part = [&](uint32_t r) { return from(r >> kBits * i); };
      a[row][begin + i] = part(o.a[0]);
      a[row + 8][begin + i] = part(o.a[1]);
      a[row][begin + kDepth / 2 + i] = part(o.a[2]);
      a[row + 8][begin + kDepth / 2 + i] = part(o.a[3]);
      b[begin + i][row] = part(o.b[0]);
      b[begin + kDepth / 2 + i][row] = part(o.b[1]);
    }
    for (int half = 0; half < 2; ++half) {
      d[row][pair + half] = static_cast<Value*>(o.d)[half];
      d[row + 8][pair + half] = static_cast<Value*>(o.d)[2 + half];
    }
  }
  for (int i = 0; i < 16; ++i) {
    for (int k = 0; k < kDepth; ++k) {
      for (int j = 0; j < 8; ++j) d[i][j] += a[i][k] * b[k][j];
    }
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    auto* out = static_cast<Value*>(static_cast<MmaOperand*>(operands[lane])->d);
    const int row = lane / 4, pair = lane % 4 * 2;
    for (int half = 0; half < 2; ++half) {
      out[half] = d[row][pair + half];
      out[2 + half] = d[row + 8][pair + half];
    }
  }
}

void RunMmaBf16(Block&, int, uint32_t arrived, void** operands, int64_t) {
  Multiply<16, float>(arrived, operands,
                      [](uint32_t v) { return __builtin_bit_cast(float, v << 16); });
}
void RunMmaS8(Block&, int, uint32_t arrived, void** operands, int64_t) {
  Multiply<32, int>(arrived, operands,
                    [](uint32_t v) { return static_cast<int>(static_cast<int8_t>(v)); });
}
void RunMmaE4m3(Block&, int, uint32_t arrived, void** operands, int64_t) {
  Multiply<32, float>(arrived, operands,
                      [](uint32_t v) { return FromE4m3(static_cast<uint8_t>(v)); });
}

struct LdMatrixOperand {
  uint32_t* r;
  const void* row;
};

// Loads row `row` of a matrix; its bytes go to four lanes (or, transposed, to all eight rows of
// lanes), and each of those must be allowed to see them.
void LoadRow(Block& block, Thread* warp, const void* pointer, int row, bool trans, uint16_t* to) {
  const uint32_t offset = SharedOffset(pointer);
  M().address = pointer;
  if (offset % 16 != 0) Fail("ldmatrix of a row that is not aligned to 16 bytes");
  for (int c = 0; c < 4; ++c) {
    const Thread& t = warp[trans ? c * 8 + row / 2 : row * 4 + c];
    CheckShared(block, {offset + static_cast<size_t>(c) * 4, 4, false, Now(&t), t.clock});
  }
  std::memcpy(to, block.shared + offset, 16);
}

void RunLdMatrix(Block& block, int warp, uint32_t arrived, void** operands, int64_t trans) {
  NeedWholeWarp(arrived, "ldmatrix");
  Thread* threads = &block.threads[warp * kWarpSize];
  Statistics& statistics = M().statistics;
  for (int matrix = 0; matrix < 4; ++matrix) {
    uint16_t e[8][8];
    int used[8] = {};
    ++statistics.ldmatrix;
    for (int row = 0; row < 8; ++row) {
      const auto& o = *static_cast<LdMatrixOperand*>(operands[matrix * 8 + row]);
      LoadRow(block, threads, o.row, row, trans != 0, e[row]);
      if (++used[SharedOffset(o.row) / 16 % 8] > 1) ++statistics.ldmatrix_conflicts;
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      const int row = lane / 4, pair = lane % 4 * 2;
      const uint16_t low = trans != 0 ? e[pair][row] : e[row][pair];
      const uint16_t high = trans != 0 ? e[pair + 1][row] : e[row][pair + 1];
      static_cast<LdMatrixOperand*>(operands[lane])->r[matrix] = low | uint32_t{high} << 16;
    }
  }
}

}  // namespace
}  // namespace tessera::simt::emulation

namespace tessera::simt::ptx {

using namespace emulation;  // NOLINT: the bodies of ptx.h are written in the emulator's words

void LdMatrixX4(uint32_t (&r)[4], const void* row) {
  M().pc = __builtin_return_address(0);
  LdMatrixOperand operand{r, row};
  Collect({kFullMask, "ldmatrix", RunLdMatrix, 0}, &operand);
}
void LdMatrixX4Trans(uint32_t (&r)[4], const void* row) {
  M().pc = __builtin_return_address(0);
  LdMatrixOperand operand{r, row};
  Collect({kFullMask, "ldmatrix.trans", RunLdMatrix, 1}, &operand);
}
void MmaBf16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  M().pc = __builtin_return_address(0);
  MmaOperand operand{d, a, {b0, b1}};
  Collect({kFullMask, "mma.sync", RunMmaBf16}, &operand);
}
void MmaS8(int (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  M().pc = __builtin_return_address(0);
  MmaOperand operand{d, a, {b0, b1}};
  Collect({kFullMask, "mma.sync", RunMmaS8}, &operand);
}
void MmaE4m3(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  M().pc = __builtin_return_address(0);
  MmaOperand operand{d, a, {b0, b1}};
  Collect({kFullMask, "mma.sync", RunMmaE4m3}, &operand);
}

}  // namespace tessera::simt::ptx
