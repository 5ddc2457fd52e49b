// Options of one command in one table: flag > environment > YAML file > default.
#ifndef TESSERA_SERVER_OPTION_TABLE_H_
#define TESSERA_SERVER_OPTION_TABLE_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "kernels/core/dtype.h"

namespace tessera {

// Where values come from besides the defaults.
struct OptionSources {
  std::vector<std::string> arguments;  // without the command's name
  // Value of an environment variable; may be empty.
  std::function<std::optional<std::string>(const std::string&)> environment;
};

// "--max-model-len 4096", "--max-model-len=4096", TESSERA_MAX_MODEL_LEN=4096 and, in the file of
// --config, "max-model-len: 4096" (or max_model_len) are the same. Targets keep their value as the
// default and must outlive the table.
class OptionTable {
 public:
  // Both are shown in the usage line: `command` ("tessera serve") and `positional` ("MODEL").
  OptionTable(std::string command, std::string positional, std::string summary);

  // Headline for the options added next.
  void Section(std::string title) { section_ = std::move(title); }

  // --name, --name=true|false and --no-name.
  void Flag(const std::string& name, bool* target, std::string help);
  void Flag(const std::string& name, std::optional<bool>* target, std::string help);
  struct Range {
    int64_t low;
    int64_t high;
  };
  void Integer(const std::string& name, int32_t* target, Range range, std::string help);
  void Integer(const std::string& name, int64_t* target, Range range, std::string help);
  void Integer(const std::string& name, std::optional<int64_t>* target, std::string help);
  void Real(const std::string& name, std::optional<double>* target, std::string help);
  void Text(const std::string& name, std::string* target, std::string help);
  // May be given several times; each occurrence appends.
  void List(const std::string& name, std::vector<std::string>* target, std::string help);
  void Choice(const std::string& name, std::string* target, std::vector<std::string> allowed,
              std::string help);
  void Type(const std::string& name, DType* target, std::string help);  // float32, bfloat16
  // Bytes with an optional unit: 512MiB, 2GiB, 4GB.
  void Bytes(const std::string& name, int64_t* target, Range range, std::string help);
  void Milliseconds(const std::string& name, absl::Duration* target, std::string help);
  // At most 1e6 seconds, with a fraction; `least` is a number of milliseconds.
  void Seconds(const std::string& name, absl::Duration* target, int64_t least, std::string help);
  // The arguments that are no options, in order.
  void Positional(std::vector<std::string>* target) { positional_target_ = target; }

  // InvalidArgument names the option, what was wrong and what is allowed; an unknown name comes
  // with the closest known one.
  absl::Status Parse(const OptionSources& sources);

  bool help_requested() const { return help_; }
  bool print_config_requested() const { return print_config_; }
  std::string Help() const;
  // Valid YAML for --config; a comment behind every value tells where it came from.
  std::string PrintConfig() const;

 private:
  enum class Kind : uint8_t { kFlag, kValue, kList };
  struct Option {
    std::string name;
    std::string section;
    std::string value_name;
    std::string help;
    Kind kind;
    std::function<absl::Status(const std::string&)> set;
    std::function<std::string()> get;
    std::function<void()> clear;  // lists: forget values of a weaker source
    std::string origin = "default";
  };

  void Add(Option option);
  Option* Find(const std::string& name);
  absl::Status Set(Option* option, const std::string& value, const std::string& origin);
  absl::Status ParseArguments(const std::vector<std::string>& arguments);
  absl::Status ParseFlag(const std::vector<std::string>& arguments, size_t* index);
  absl::Status ReadEnvironment(const OptionSources& sources);
  absl::Status ReadYaml(const std::string& path);
  absl::Status UnknownOption(const std::string& name, const std::string& where) const;

  std::string command_;
  std::string positional_;
  std::string summary_;
  std::string section_ = "Options";
  std::vector<Option> options_;
  std::vector<std::string>* positional_target_ = nullptr;
  std::string config_path_;
  bool help_ = false;
  bool print_config_ = false;
};

// "2GiB" → 2147483648. Units: B, K/KB/KiB, M…, G…, T… (KB = 1000, K and KiB = 1024).
absl::StatusOr<int64_t> ParseBytes(const std::string& text);

}  // namespace tessera

#endif  // TESSERA_SERVER_OPTION_TABLE_H_
