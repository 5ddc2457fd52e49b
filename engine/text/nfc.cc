#include "engine/text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <vector>

#include "engine/text/utf8.h"

namespace tessera {
namespace {

struct CodePointRange {
  char32_t first;
  char32_t last;
};

// Code points assigned after Unicode 9.0 whose canonical combining class is not 0 in Unicode 15.0,
// and the only later characters that compose (U+11935 with U+11930 to U+11938). Derived from the
// Age and Canonical_Combining_Class properties of the Unicode Character Database.
constexpr CodePointRange kInertAfterUnicode9[] = {
    {0x07FD, 0x07FD},   {0x0898, 0x089F},   {0x08CA, 0x08D3},   {0x09FE, 0x09FE},
    {0x0C3C, 0x0C3C},   {0x0D3B, 0x0D3C},   {0x0EBA, 0x0EBA},   {0x1715, 0x1715},
    {0x1ABF, 0x1ACE},   {0x1DF6, 0x1DFA},   {0xA82C, 0xA82C},   {0x10D24, 0x10D27},
    {0x10EAB, 0x10EAC}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x1145E, 0x1145E}, {0x11839, 0x1183A},
    {0x11930, 0x11930}, {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943},
    {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99, 0x11A99},
    {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42},
    {0x16FF0, 0x16FF1}, {0x1E08F, 0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE},
    {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}};

bool IsInertAfterUnicode9(char32_t code_point) {
  const auto* range = std::lower_bound(
      std::begin(kInertAfterUnicode9), std::end(kInertAfterUnicode9), code_point,
      [](const CodePointRange& candidate, char32_t value) { return candidate.last < value; });
  return range != std::end(kInertAfterUnicode9) && range->first <= code_point;
}

bool IsComposingHangulJamo(char32_t code_point) {
  return (code_point >= 0x1161 && code_point <= 0x1175) ||
         (code_point >= 0x11A8 && code_point <= 0x11C2);
}

// utf8proc marks the second character of a composition with an index in this range.
bool ComposesWithPrevious(const utf8proc_property_t& property) {
  return property.comb_index >= 0x8000 && property.comb_index != UINT16_MAX;
}

// A boundary is a starter that stays as it is and joins nothing before it: text can be normalised
// on either side of its start separately.
bool IsBoundary(char32_t code_point) {
  if (code_point < 0x300) return true;
  if (IsComposingHangulJamo(code_point)) return false;
  const utf8proc_property_t& property =
      *utf8proc_get_property(static_cast<utf8proc_int32_t>(code_point));
  const bool decomposes =
      property.decomp_seqindex != UINT16_MAX && property.decomp_type == 0;  // 0: canonical
  if (property.combining_class == 0 && !decomposes && !ComposesWithPrevious(property)) return true;
  return IsInertAfterUnicode9(code_point);
}

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

// The canonical ordering algorithm (Unicode 15.0, D109), in O(n log n) for hostile runs of marks.
void SortMarks(std::vector<utf8proc_int32_t>* code_points) {
  const auto is_starter = [](utf8proc_int32_t c) { return CombiningClass(c) == 0; };
  auto run = code_points->begin();
  while (run != code_points->end()) {
    run = std::find_if_not(run, code_points->end(), is_starter);
    const auto run_end = std::find_if(run, code_points->end(), is_starter);
    if (run_end - run > 1) {
      std::stable_sort(run, run_end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
        return CombiningClass(a) < CombiningClass(b);
      });
    }
    run = run_end;
  }
}

void AppendDecomposed(char32_t code_point, std::vector<utf8proc_int32_t>* code_points) {
  constexpr int kLongestDecomposition = 18;
  utf8proc_int32_t decomposed[kLongestDecomposition];
  int boundclass = 0;
  const utf8proc_ssize_t count = utf8proc_decompose_char(
      static_cast<utf8proc_int32_t>(code_point), decomposed, kLongestDecomposition,
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_DECOMPOSE), &boundclass);
  code_points->insert(code_points->end(), decomposed, decomposed + std::max<ptrdiff_t>(count, 0));
}

// Normalises one stretch between boundaries (which holds no boundary but perhaps its first
// character) and appends it.
void AppendNormalizedRegion(std::string_view region, std::string* out) {
  std::vector<utf8proc_int32_t> code_points;
  while (!region.empty()) {
    const std::string_view character = region.substr(0, NextUtf8Unit(region).length);
    const char32_t code_point = DecodeUtf8Character(character);
    region.remove_prefix(character.size());
    if (IsInertAfterUnicode9(code_point)) {
      out->append(character);  // only ever the first: nothing orders before or composes with it
    } else {
      AppendDecomposed(code_point, &code_points);
    }
  }
  SortMarks(&code_points);
  const utf8proc_ssize_t composed = utf8proc_normalize_utf32(
      code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
      static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  for (utf8proc_ssize_t i = 0; i < composed; ++i) {
    AppendUtf8(static_cast<char32_t>(code_points[static_cast<size_t>(i)]), out);
  }
}

}  // namespace

std::string_view NormalizeNfc(std::string_view text, std::string* storage) {
  storage->clear();
  size_t copied = 0;        // text[0, copied) is in *storage
  size_t region_start = 0;  // the last boundary before `position`
  bool region_is_plain = true;
  const auto close_region = [&](size_t end) {
    if (region_is_plain) return;
    storage->append(text.substr(copied, region_start - copied));
    AppendNormalizedRegion(text.substr(region_start, end - region_start), storage);
    copied = end;
  };
  size_t position = 0;
  while (position < text.size()) {
    const size_t ascii = AsciiPrefixLength(text.substr(position));
    if (ascii > 0) {
      close_region(position);
      position += ascii;
      region_start = position - 1;
      region_is_plain = true;
      continue;
    }
    const std::string_view character =
        text.substr(position, NextUtf8Unit(text.substr(position)).length);
    if (IsBoundary(DecodeUtf8Character(character))) {
      close_region(position);
      region_start = position;
      region_is_plain = true;
    } else {
      region_is_plain = false;
    }
    position += character.size();
  }
  close_region(text.size());
  if (copied == 0) return text;
  storage->append(text.substr(copied));
  return *storage;
}

}  // namespace tessera
