#include "server/option_table.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "server/did_you_mean.h"
#include "server/option_yaml.h"

namespace tessera {
namespace {

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kHelpColumn = 36;
constexpr size_t kHelpWidth = 100;

absl::StatusOr<bool> ParseBool(const std::string& text) {
  bool value = false;
  if (absl::SimpleAtob(text, &value)) return value;
  return absl::InvalidArgumentError(absl::StrCat("must be true or false, got \"", text, "\""));
}

absl::StatusOr<int64_t> ParseInteger(const std::string& text, OptionTable::Range range) {
  int64_t value = 0;
  if (!absl::SimpleAtoi(text, &value) || value < range.low || value > range.high) {
    return absl::InvalidArgumentError(absl::StrCat("must be an integer in [", range.low, ", ",
                                                   range.high, "], got \"", text, "\""));
  }
  return value;
}

absl::StatusOr<double> ParseReal(const std::string& text) {
  double value = 0;
  if (!absl::SimpleAtod(text, &value) || !std::isfinite(value)) {
    return absl::InvalidArgumentError(absl::StrCat("must be a number, got \"", text, "\""));
  }
  return value;
}

constexpr OptionTable::Range kAnyInteger = {std::numeric_limits<int64_t>::min(),
                                            std::numeric_limits<int64_t>::max()};

std::string EnvironmentName(const std::string& option) {
  return absl::StrCat("TESSERA_", absl::AsciiStrToUpper(absl::StrReplaceAll(option, {{"-", "_"}})));
}

// Kubernetes gives every pod TESSERA_PORT=tcp://… when there is a service named tessera.
bool IsServiceLink(const std::string& value) {
  return absl::StartsWith(value, "tcp://") || absl::StartsWith(value, "udp://");
}

// Appends `text` wrapped behind an indented column.
void AppendWrapped(const std::string& head, const std::string& text, std::string* out) {
  std::string line = head;
  if (line.size() + 2 > kHelpColumn) {
    absl::StrAppend(out, line, "\n");
    line.clear();
  }
  line.resize(kHelpColumn, ' ');
  bool is_empty = true;
  for (const auto& word : absl::StrSplit(text, ' ')) {
    if (!is_empty && line.size() + 1 + word.size() > kHelpWidth) {
      absl::StrAppend(out, line, "\n");
      line.assign(kHelpColumn, ' ');
      is_empty = true;
    }
    absl::StrAppend(&line, is_empty ? "" : " ", word);
    is_empty = false;
  }
  absl::StrAppend(out, line, "\n");
}

std::string YamlQuoted(const std::string& text) {
  return absl::StrCat(
      "\"", absl::StrReplaceAll(text, {{"\\", "\\\\"}, {"\"", "\\\""}, {"\n", "\\n"}}), "\"");
}

}  // namespace

absl::StatusOr<int64_t> ParseBytes(const std::string& text) {
  const size_t digits = text.find_first_not_of("0123456789.");
  const std::string number = text.substr(0, digits);
  const std::string unit =
      digits == std::string::npos
          ? ""
          : absl::AsciiStrToLower(absl::StripAsciiWhitespace(text.substr(digits)));
  double value = 0;
  bool is_valid = absl::SimpleAtod(number, &value);
  double factor = 1;
  if (!unit.empty() && unit != "b") {
    const size_t power = std::string("kmgt").find(unit[0]);
    const std::string rest = unit.substr(1);
    is_valid = is_valid && power != std::string::npos &&
               (rest.empty() || rest == "b" || rest == "ib" || rest == "i");
    factor = std::pow(rest == "b" ? 1000.0 : 1024.0, static_cast<double>(power % 4 + 1));
  }
  if (!is_valid || value * factor > 9e18) {
    return absl::InvalidArgumentError(
        absl::StrCat("must be a size such as 512MiB or 2GiB, got \"", text, "\""));
  }
  return static_cast<int64_t>(value * factor);
}

OptionTable::OptionTable(std::string command, std::string positional, std::string summary)
    : command_(std::move(command)),
      positional_(std::move(positional)),
      summary_(std::move(summary)) {
  Section("General");
  Flag("help", &help_, "Show this text.");
  Text("config", &config_path_, "YAML file with options, name: value.");
  Flag("print-config", &print_config_, "Print every option with its value and origin, and exit.");
}

void OptionTable::Add(Option option) {
  option.section = section_;
  options_.push_back(std::move(option));
}

void OptionTable::Flag(const std::string& name, bool* target, std::string help) {
  Add({.name = name,
       .help = std::move(help),
       .kind = Kind::kFlag,
       .set = [target](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(*target, ParseBool(text));
         return absl::OkStatus();
       },
       .get = [target] { return std::string(*target ? "true" : "false"); }});
}

void OptionTable::Flag(const std::string& name, std::optional<bool>* target, std::string help) {
  Add({.name = name,
       .value_name = "true|false",
       .help = std::move(help),
       .kind = Kind::kFlag,
       .set = [target](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(*target, ParseBool(text));
         return absl::OkStatus();
       },
       .get = [target] { return std::string(!*target   ? ""
                                            : **target ? "true"
                                                       : "false"); }});
}

void OptionTable::Integer(const std::string& name, int32_t* target, Range range, std::string help) {
  Add({.name = name,
       .value_name = "N",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target, range](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(const int64_t value, ParseInteger(text, range));
         *target = static_cast<int32_t>(value);
         return absl::OkStatus();
       },
       .get = [target] { return absl::StrCat(*target); }});
}

void OptionTable::Integer(const std::string& name, int64_t* target, Range range, std::string help) {
  Add({.name = name,
       .value_name = "N",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target, range](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(*target, ParseInteger(text, range));
         return absl::OkStatus();
       },
       .get = [target] { return absl::StrCat(*target); }});
}

void OptionTable::Integer(const std::string& name, std::optional<int64_t>* target,
                          std::string help) {
  Add({.name = name,
       .value_name = "N",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(*target, ParseInteger(text, kAnyInteger));
         return absl::OkStatus();
       },
       .get = [target] { return *target ? absl::StrCat(**target) : ""; }});
}

void OptionTable::Real(const std::string& name, std::optional<double>* target, std::string help) {
  Add({.name = name,
       .value_name = "X",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(*target, ParseReal(text));
         return absl::OkStatus();
       },
       .get = [target] { return *target ? absl::StrCat(**target) : ""; }});
}

void OptionTable::Text(const std::string& name, std::string* target, std::string help) {
  Add({.name = name,
       .value_name = "TEXT",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target](const std::string& text) -> absl::Status {
         *target = text;
         return absl::OkStatus();
       },
       .get = [target] { return *target; }});
}

void OptionTable::List(const std::string& name, std::vector<std::string>* target,
                       std::string help) {
  Add({.name = name,
       .value_name = "TEXT",
       .help = absl::StrCat(help, " May be repeated."),
       .kind = Kind::kList,
       .set = [target](const std::string& text) -> absl::Status {
         target->push_back(text);
         return absl::OkStatus();
       },
       .get = [target] { return absl::StrJoin(*target, ", "); },
       .clear = [target] { target->clear(); }});
}

void OptionTable::Choice(const std::string& name, std::string* target,
                         std::vector<std::string> allowed, std::string help) {
  const std::string names = absl::StrJoin(allowed, "|");
  Add({.name = name,
       .value_name = names,
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target, names,
               allowed = std::move(allowed)](const std::string& text) -> absl::Status {
         if (std::find(allowed.begin(), allowed.end(), text) == allowed.end()) {
           return absl::InvalidArgumentError(
               absl::StrCat("must be one of ", names, ", got \"", text, "\""));
         }
         *target = text;
         return absl::OkStatus();
       },
       .get = [target] { return *target; }});
}

void OptionTable::Type(const std::string& name, DType* target, std::string help) {
  Add({.name = name,
       .value_name = "float32|bfloat16",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target](const std::string& text) -> absl::Status {
         const std::optional<DType> dtype = ParseDType(text);
         if (dtype != DType::kF32 && dtype != DType::kBF16) {
           return absl::InvalidArgumentError(
               absl::StrCat("must be float32 or bfloat16, got \"", text, "\""));
         }
         *target = *dtype;
         return absl::OkStatus();
       },
       .get = [target] { return std::string(DTypeName(*target)); }});
}

void OptionTable::Bytes(const std::string& name, int64_t* target, Range range, std::string help) {
  Add({.name = name,
       .value_name = "SIZE",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target, range](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(const int64_t value, ParseBytes(text));
         if (value < range.low || value > range.high) {
           return absl::InvalidArgumentError(absl::StrCat(
               "must be in [", range.low, ", ", range.high, "] bytes, got \"", text, "\""));
         }
         *target = value;
         return absl::OkStatus();
       },
       .get = [target] { return absl::StrCat(*target); }});
}

void OptionTable::Milliseconds(const std::string& name, absl::Duration* target, std::string help) {
  Add({.name = name,
       .value_name = "MS",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(const int64_t value, ParseInteger(text, {0, 86'400'000}));
         *target = absl::Milliseconds(value);
         return absl::OkStatus();
       },
       .get = [target] { return absl::StrCat(absl::ToInt64Milliseconds(*target)); }});
}

void OptionTable::Seconds(const std::string& name, absl::Duration* target, int64_t least,
                          std::string help) {
  const double low = 1e-3 * static_cast<double>(least);
  Add({.name = name,
       .value_name = "S",
       .help = std::move(help),
       .kind = Kind::kValue,
       .set = [target, low](const std::string& text) -> absl::Status {
         ASSIGN_OR_RETURN(const double value, ParseReal(text));
         if (value < low || value > 1e6) {
           return absl::InvalidArgumentError(
               absl::StrCat("must be in [", low, ", 1e6], got \"", text, "\""));
         }
         *target = absl::Seconds(value);
         return absl::OkStatus();
       },
       .get = [target] { return absl::StrCat(absl::ToDoubleSeconds(*target)); }});
}

OptionTable::Option* OptionTable::Find(const std::string& name) {
  for (Option& option : options_) {
    if (option.name == name) return &option;
  }
  return nullptr;
}

absl::Status OptionTable::UnknownOption(const std::string& name, const std::string& where) const {
  std::vector<std::string> names;
  for (const Option& option : options_) names.push_back(option.name);
  return absl::InvalidArgumentError(
      absl::StrCat(where, ": unknown option \"", name, "\"", DidYouMean(name, names)));
}

absl::Status OptionTable::Set(Option* option, const std::string& value, const std::string& origin) {
  if (option->clear && option->origin != origin) option->clear();
  option->origin = origin;
  const absl::Status status = option->set(value);
  if (status.ok()) return status;
  return absl::InvalidArgumentError(
      absl::StrCat("--", option->name, " (", origin, "): ", status.message()));
}

absl::Status OptionTable::ParseFlag(const std::vector<std::string>& arguments, size_t* index) {
  const std::string& argument = arguments[*index];
  const size_t equals = argument.find('=');
  const std::string name = argument.substr(2, equals == std::string::npos ? equals : equals - 2);
  Option* option = Find(name);
  if (option == nullptr && absl::StartsWith(name, "no-") && equals == std::string::npos) {
    option = Find(name.substr(3));
    if (option != nullptr && option->kind == Kind::kFlag) return Set(option, "false", "flag");
    option = nullptr;
  }
  if (option == nullptr) return UnknownOption(name, "command line");
  if (equals != std::string::npos) return Set(option, argument.substr(equals + 1), "flag");
  if (option->kind == Kind::kFlag) return Set(option, "true", "flag");
  if (*index + 1 >= arguments.size()) {
    return absl::InvalidArgumentError(absl::StrCat("--", name, ": needs a value"));
  }
  return Set(option, arguments[++*index], "flag");
}

absl::Status OptionTable::ParseArguments(const std::vector<std::string>& arguments) {
  bool only_positional = false;
  for (size_t i = 0; i < arguments.size(); ++i) {
    const std::string& argument = arguments[i];
    if (argument == "-h") {
      help_ = true;
    } else if (argument == "--" && !only_positional) {
      only_positional = true;
    } else if (!only_positional && absl::StartsWith(argument, "--")) {
      RETURN_IF_ERROR(ParseFlag(arguments, &i));
    } else if (positional_target_ != nullptr) {
      positional_target_->push_back(argument);
    } else {
      return absl::InvalidArgumentError(absl::StrCat("unexpected argument \"", argument, "\""));
    }
  }
  return absl::OkStatus();
}

absl::Status OptionTable::ReadEnvironment(const OptionSources& sources) {
  if (!sources.environment) return absl::OkStatus();
  for (Option& option : options_) {
    const std::string variable = EnvironmentName(option.name);
    const std::optional<std::string> value = sources.environment(variable);
    if (option.origin == "flag" || !value.has_value() || IsServiceLink(*value)) continue;
    RETURN_IF_ERROR(Set(&option, *value, variable));
  }
  return absl::OkStatus();
}

absl::Status OptionTable::ReadYaml(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxConfigBytes));
  ASSIGN_OR_RETURN(const YamlEntries entries, ParseOptionsYaml(text, path));
  for (const auto& [name, values] : entries) {
    Option* option = Find(name);
    if (option == nullptr) return UnknownOption(name, path);
    if (option->origin != "default" && option->origin != path) continue;  // a stronger source
    if (option->kind != Kind::kList && values.size() != 1) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", name, ": must be one value"));
    }
    for (const std::string& value : values) RETURN_IF_ERROR(Set(option, value, path));
  }
  return absl::OkStatus();
}

// The strongest source goes first; the weaker ones skip what is set already.
absl::Status OptionTable::Parse(const OptionSources& sources) {
  RETURN_IF_ERROR(ParseArguments(sources.arguments));
  if (help_) return absl::OkStatus();
  RETURN_IF_ERROR(ReadEnvironment(sources));
  if (!config_path_.empty()) return ReadYaml(config_path_);
  return absl::OkStatus();
}

std::string OptionTable::Help() const {
  std::string text = absl::StrCat("Usage: ", command_, " ", positional_,
                                  positional_.empty() ? "" : " ", "[options]\n\n", summary_, "\n");
  std::string section;
  for (const Option& option : options_) {
    if (option.section != section) absl::StrAppend(&text, "\n", option.section, ":\n");
    section = option.section;
    const std::string value = option.get();
    const bool is_on = option.kind == Kind::kFlag && option.value_name.empty() && value == "true";
    std::string head =
        absl::StrCat(is_on && option.name != "help" ? "  --[no-]" : "  --", option.name);
    if (option.kind != Kind::kFlag) absl::StrAppend(&head, " ", option.value_name);
    if (option.kind == Kind::kFlag && !option.value_name.empty()) {
      absl::StrAppend(&head, "=", option.value_name);
    }
    const bool show_default = option.origin == "default" && !value.empty() && value != "false";
    AppendWrapped(
        head, absl::StrCat(option.help, show_default ? absl::StrCat(" Default ", value, ".") : ""),
        &text);
  }
  absl::StrAppend(&text,
                  "\nEvery option can also be given in the environment (--max-model-len as "
                  "TESSERA_MAX_MODEL_LEN)\nand in the YAML file of --config; flags win over the "
                  "environment, the environment over the file.\n");
  return text;
}

std::string OptionTable::PrintConfig() const {
  std::string text;
  for (const Option& option : options_) {
    if (option.name == "help" || option.name == "config" || option.name == "print-config") continue;
    if (option.kind == Kind::kList && option.get().empty()) continue;
    const bool is_unset = option.get().empty() && option.origin == "default";
    absl::StrAppend(&text, is_unset ? "# " : "", option.name, ": ");
    const bool is_text = option.value_name == "TEXT";
    absl::StrAppend(&text, is_text ? YamlQuoted(option.get()) : option.get(), "  # ", option.origin,
                    "\n");
  }
  return text;
}

}  // namespace tessera
