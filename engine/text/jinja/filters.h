// Jinja's filters ("value | name(args)") and tests ("value is name(args)").
#ifndef TESSERA_ENGINE_TEXT_JINJA_FILTERS_H_
#define TESSERA_ENGINE_TEXT_JINJA_FILTERS_H_

#include <map>
#include <string_view>

#include "absl/status/statusor.h"
#include "engine/text/jinja/budget.h"
#include "engine/text/jinja/methods.h"
#include "engine/text/jinja/value.h"

namespace tessera::jinja {

// INVALID_ARGUMENT for an unknown name too.
absl::StatusOr<Value> ApplyFilter(Budget* budget, std::string_view name, const Value& input,
                                  const Arguments& args);
absl::StatusOr<bool> ApplyTest(Budget* budget, std::string_view name, const Value& input,
                               const Arguments& args);

// Whether a template may use the name; checked when it is parsed.
bool HasFilter(std::string_view name);
bool HasTest(std::string_view name);

using Filter = absl::StatusOr<Value> (*)(Budget*, const Value& input, const Arguments&);
using FilterTable = std::map<std::string_view, Filter>;

// The tables behind ApplyFilter.
const FilterTable& ScalarFilters();
const FilterTable& SequenceFilters();
const FilterTable& TextFilters();

}  // namespace tessera::jinja

#endif  // TESSERA_ENGINE_TEXT_JINJA_FILTERS_H_
