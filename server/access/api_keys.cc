#include "server/access/api_keys.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>
#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <optional>
#include <system_error>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status_macros.h"
#include "kernels/core/text_file.h"
#include "server/did_you_mean.h"

namespace tessera {
namespace {

constexpr int64_t kMaxFileBytes = 4 << 20;
constexpr size_t kMaxKeys = 10'000;
constexpr size_t kDigestDigits = 64;
constexpr size_t kSecretBytes = 32;

// Where in the file something is wrong.
class Place {
 public:
  Place(std::string source, std::string what)
      : source_(std::move(source)), what_(std::move(what)) {}
  absl::Status Wrong(absl::string_view message) const {
    return absl::InvalidArgumentError(absl::StrCat(source_, ": ", what_, message));
  }

 private:
  std::string source_;
  std::string what_;  // "keys[2]: ", or nothing
};

// A word of the file for an error's text. A key that stands in the wrong place is no such word.
std::string Shown(const std::string& word) {
  constexpr size_t kMaxShown = 32;
  return word.size() <= kMaxShown ? word : "(a long word)";
}

absl::Status CheckFields(const Place& place, const YAML::Node& node,
                         const std::vector<std::string>& known) {
  std::vector<std::string> seen;
  for (const auto& field : node) {
    const std::string name = field.first.IsScalar() ? field.first.Scalar() : "";
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      return place.Wrong(
          absl::StrCat("unknown field \"", Shown(name), "\"", DidYouMean(name, known)));
    }
    if (std::find(seen.begin(), seen.end(), name) != seen.end()) {
      return place.Wrong(absl::StrCat(name, " stands there twice"));
    }
    seen.push_back(name);
  }
  return absl::OkStatus();
}

constexpr char kWord[] = "1 to 64 letters, digits, \".\", \"_\" and \"-\"";

bool IsWord(const std::string& text) {
  constexpr size_t kMaxBytes = 64;
  return !text.empty() && text.size() <= kMaxBytes &&
         std::all_of(text.begin(), text.end(), [](unsigned char c) {
           return absl::ascii_isalnum(c) || c == '.' || c == '_' || c == '-';
         });
}

absl::StatusOr<std::string> Word(const Place& place, const YAML::Node& node, const char* field) {
  const YAML::Node value = node[field];
  if (!value.IsDefined() || value.IsNull()) return place.Wrong(absl::StrCat("has no ", field));
  if (!value.IsScalar() || !IsWord(value.Scalar())) {
    return place.Wrong(absl::StrCat(field, " must be ", kWord));
  }
  return value.Scalar();
}

// The value itself is not shown: somebody may have put the key there.
absl::StatusOr<KeyDigest> Digest(const Place& place, const YAML::Node& node) {
  const YAML::Node value = node["sha256"];
  if (!value.IsDefined() || value.IsNull()) return place.Wrong("has no sha256");
  const std::string text = value.IsScalar() ? value.Scalar() : "";
  const bool is_hex = std::all_of(text.begin(), text.end(),
                                  [](unsigned char c) { return absl::ascii_isxdigit(c); });
  if (text.size() != kDigestDigits || !is_hex) {
    return place.Wrong(absl::StrCat("sha256 must be the ", kDigestDigits,
                                    " hexadecimal digits of a key's SHA-256, not the key; it has ",
                                    text.size(), " characters"));
  }
  const std::string bytes = absl::HexStringToBytes(text);
  KeyDigest digest = {};
  std::copy(bytes.begin(), bytes.end(), digest.begin());
  return digest;
}

absl::StatusOr<std::vector<Scope>> Scopes(const Place& place, const YAML::Node& node) {
  const YAML::Node value = node["scopes"];
  if (!value.IsDefined() || !value.IsSequence() || value.size() == 0) {
    return place.Wrong(absl::StrCat("scopes must be a list of ", absl::StrJoin(kScopeNames, ", ")));
  }
  std::vector<Scope> scopes;
  for (const auto& element : value) {
    const std::string name = element.IsScalar() ? element.Scalar() : "";
    const auto* const found = std::find(kScopeNames.begin(), kScopeNames.end(), name);
    if (found == kScopeNames.end()) {
      return place.Wrong(absl::StrCat("unknown scope \"", Shown(name), "\"",
                                      DidYouMean(name, {kScopeNames.begin(), kScopeNames.end()})));
    }
    scopes.push_back(static_cast<Scope>(found - kScopeNames.begin()));
  }
  return scopes;
}

absl::StatusOr<ApiKey> ParseKey(const Place& place, const YAML::Node& node) {
  if (!node.IsMap()) return place.Wrong("must be a mapping with name, sha256, tenant and scopes");
  RETURN_IF_ERROR(CheckFields(place, node, {"name", "sha256", "tenant", "scopes"}));
  ApiKey key;
  ASSIGN_OR_RETURN(key.name, Word(place, node, "name"));
  ASSIGN_OR_RETURN(key.digest, Digest(place, node));
  ASSIGN_OR_RETURN(key.tenant, Word(place, node, "tenant"));
  ASSIGN_OR_RETURN(key.scopes, Scopes(place, node));
  return key;
}

// A number above `least`, or the limit that was there.
absl::Status ReadNumber(const Place& place, const YAML::Node& node, const char* field, double least,
                        double* number) {
  const YAML::Node value = node[field];
  if (!value.IsDefined()) return absl::OkStatus();
  double read = 0;
  if (!value.IsScalar() || !absl::SimpleAtod(value.Scalar(), &read) || !std::isfinite(read) ||
      read < least || read == 0) {
    return place.Wrong(absl::StrCat(field, " must be a number ",
                                    least == 0 ? "above 0" : absl::StrCat("of ", least, " or more"),
                                    "; without it there is no limit"));
  }
  *number = read;
  return absl::OkStatus();
}

// Of what tenants share.
absl::Status ReadShares(const Place& place, const YAML::Node& node, TenantLimits* limits) {
  constexpr double kLeast = 0.001;
  constexpr double kMostWeight = 1000;
  const auto read_share = [&](const char* field, double most, double* number) {
    const YAML::Node value = node[field];
    if (!value.IsDefined()) return absl::OkStatus();
    double read = 0;
    if (!value.IsScalar() || !absl::SimpleAtod(value.Scalar(), &read) ||
        !(read >= kLeast && read <= most)) {
      return place.Wrong(absl::StrCat(field, " must be a number in [", kLeast, ", ", most, "]"));
    }
    *number = read;
    return absl::OkStatus();
  };
  RETURN_IF_ERROR(read_share("weight", kMostWeight, &limits->weight));
  return read_share("kv-share", 1, &limits->kv_share);
}

absl::StatusOr<TenantLimits> ParseLimits(const Place& place, const YAML::Node& node) {
  constexpr int32_t kMostPriority = 100;
  TenantLimits limits;
  if (node.IsNull()) return limits;
  if (!node.IsMap()) return place.Wrong("must be a mapping of limits");
  RETURN_IF_ERROR(CheckFields(place, node,
                              {"requests-per-second", "tokens-per-minute", "concurrent-streams",
                               "priority", "weight", "kv-share"}));
  RETURN_IF_ERROR(ReadShares(place, node, &limits));
  RETURN_IF_ERROR(ReadNumber(place, node, "requests-per-second", 0, &limits.requests_per_second));
  RETURN_IF_ERROR(ReadNumber(place, node, "tokens-per-minute", 0, &limits.tokens_per_minute));
  RETURN_IF_ERROR(ReadNumber(place, node, "concurrent-streams", 1, &limits.concurrent_streams));
  const YAML::Node priority = node["priority"];
  if (!priority.IsDefined()) return limits;
  if (!priority.IsScalar() || !absl::SimpleAtoi(priority.Scalar(), &limits.priority) ||
      std::abs(limits.priority) > kMostPriority) {
    return place.Wrong(
        absl::StrCat("priority must be an integer in [", -kMostPriority, ", ", kMostPriority, "]"));
  }
  return limits;
}

absl::Status ParseTenants(const YAML::Node& root, const std::string& source, KeyFile* out) {
  const YAML::Node tenants = root["tenants"];
  if (!tenants.IsDefined()) return absl::OkStatus();
  const Place file(source, "");
  if (!tenants.IsMap()) return file.Wrong("tenants must be a mapping of names to limits");
  for (const auto& entry : tenants) {
    const std::string name = entry.first.IsScalar() ? entry.first.Scalar() : "";
    const Place place(source, absl::StrCat("tenants.", Shown(name), ": "));
    if (!IsWord(name)) return place.Wrong(absl::StrCat("its name must be ", kWord));
    ASSIGN_OR_RETURN(const TenantLimits limits, ParseLimits(place, entry.second));
    if (!out->tenants.emplace(name, limits).second) return place.Wrong("stands there twice");
  }
  return absl::OkStatus();
}

absl::Status CheckTenant(const Place& place, const ApiKey& key, const KeyFile& file) {
  if (file.tenants.empty() || file.tenants.count(key.tenant) > 0) return absl::OkStatus();
  std::vector<std::string> known;
  for (const auto& [name, limits] : file.tenants) known.push_back(name);
  return place.Wrong(
      absl::StrCat("unknown tenant \"", key.tenant, "\"", DidYouMean(key.tenant, known)));
}

absl::StatusOr<KeyFile> ParseFile(const YAML::Node& root, const std::string& source) {
  const Place place_of_file(source, "");
  if (!root.IsMap()) return place_of_file.Wrong("must be a mapping with a list \"keys\"");
  RETURN_IF_ERROR(CheckFields(place_of_file, root, {"keys", "tenants"}));
  KeyFile file;
  RETURN_IF_ERROR(ParseTenants(root, source, &file));
  const YAML::Node list = root["keys"];
  if (!list.IsDefined() || !list.IsSequence()) return place_of_file.Wrong("keys must be a list");
  if (list.size() > kMaxKeys) {
    return place_of_file.Wrong(absl::StrCat("more than ", kMaxKeys, " keys"));
  }
  std::map<std::string, size_t> names;
  std::map<KeyDigest, size_t> digests;
  for (size_t i = 0; i < list.size(); ++i) {
    const Place place(source, absl::StrCat("keys[", i, "]: "));
    ASSIGN_OR_RETURN(ApiKey key, ParseKey(place, list[i]));
    RETURN_IF_ERROR(CheckTenant(place, key, file));
    if (!names.emplace(key.name, i).second) {
      return place.Wrong(
          absl::StrCat("the name \"", key.name, "\" is that of keys[", names[key.name], "]"));
    }
    if (!digests.emplace(key.digest, i).second) {
      return place.Wrong(absl::StrCat("is the same key as keys[", digests[key.digest], "]"));
    }
    file.keys.push_back(std::move(key));
  }
  return file;
}

std::string FormatTenants(const KeyFile& file) {
  if (file.tenants.empty()) return "";
  std::string text = "tenants:\n";
  for (const auto& [name, limits] : file.tenants) {
    absl::StrAppend(&text, "  \"", name, "\":\n");
    const auto number = [&](const char* field, double value) {
      if (std::isfinite(value)) absl::StrAppendFormat(&text, "    %s: %.15g\n", field, value);
    };
    number("requests-per-second", limits.requests_per_second);
    number("tokens-per-minute", limits.tokens_per_minute);
    number("concurrent-streams", limits.concurrent_streams);
    absl::StrAppend(&text, "    priority: ", limits.priority, "\n");
    number("weight", limits.weight);
    if (limits.kv_share > 0) number("kv-share", limits.kv_share);
  }
  return text;
}

bool IsCutOff(const std::string& text) {
  return text.empty() || (text.back() != '\n' && text.back() != '}' && text.back() != ']');
}

absl::Status SystemError(const std::string& path, const char* what) {
  return absl::UnavailableError(
      absl::StrCat(path, ": ", what, ": ", std::generic_category().message(errno)));
}

// All of it, on the disk.
bool WriteAll(int file, const std::string& text) {
  size_t written = 0;
  while (written < text.size()) {
    const ssize_t count = write(file, text.data() + written, text.size() - written);
    if (count <= 0) return false;
    written += static_cast<size_t>(count);
  }
  return fsync(file) == 0;
}

}  // namespace

KeyDigest DigestOf(std::string_view key) {
  KeyDigest digest = {};
  TESSERA_CHECK(EVP_Digest(key.data(), key.size(), digest.data(), nullptr, EVP_sha256(), nullptr) ==
                1);
  return digest;
}

bool ApiKey::Has(Scope scope) const {
  return std::find(scopes.begin(), scopes.end(), scope) != scopes.end();
}

absl::StatusOr<KeyFile> ParseApiKeys(const std::string& yaml, const std::string& source) {
  if (IsCutOff(yaml)) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, yaml.empty() ? ": is empty" : ": is cut off: its last line has no end",
                     "; without keys nobody could call: leave the option out, or write keys: []"));
  }
  try {
    return ParseFile(YAML::Load(yaml), source);
  } catch (const std::exception& error) {  // yaml-cpp reports by exception
    return absl::InvalidArgumentError(absl::StrCat(source, ": not valid YAML: ", error.what()));
  }
}

std::string FormatApiKeys(const KeyFile& file) {
  std::string text =
      absl::StrCat(FormatTenants(file), file.keys.empty() ? "keys: []\n" : "keys:\n");
  for (const ApiKey& key : file.keys) {
    std::vector<std::string> scopes;
    for (const Scope scope : key.scopes)
      scopes.emplace_back(kScopeNames[static_cast<size_t>(scope)]);
    const std::string digest(key.digest.begin(), key.digest.end());
    absl::StrAppend(&text, "  - name: \"", key.name, "\"\n    sha256: \"",
                    absl::BytesToHexString(digest), "\"\n    tenant: \"", key.tenant,
                    "\"\n    scopes: [", absl::StrJoin(scopes, ", "), "]\n");
  }
  return text;
}

absl::StatusOr<KeyFile> ReadApiKeys(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path, kMaxFileBytes));
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && (info.st_mode & (S_IROTH | S_IWOTH)) != 0) {
    return absl::PermissionDeniedError(absl::StrFormat(
        "%s: everybody on this machine can read or write it (mode %04o); make it 0600 or 0640",
        path, info.st_mode & 07777U));
  }
  return ParseApiKeys(text, path);
}

absl::Status WriteApiKeys(const std::string& path, const KeyFile& keys) {
  constexpr mode_t kOwnerOnly = 0600;
  const std::string partial = path + ".part";
  struct stat info = {};
  const mode_t mode = stat(path.c_str(), &info) == 0 ? info.st_mode & 07777U : kOwnerOnly;
  unlink(partial.c_str());
  const int file = open(partial.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, kOwnerOnly);
  if (file < 0) return SystemError(partial, "cannot be written");
  const bool is_written = WriteAll(file, FormatApiKeys(keys)) && fchmod(file, mode) == 0;
  const absl::Status failed = SystemError(partial, "cannot be written");
  close(file);
  if (is_written && std::rename(partial.c_str(), path.c_str()) == 0) return absl::OkStatus();
  unlink(partial.c_str());
  return is_written ? SystemError(path, "cannot be replaced") : failed;
}

std::string MakeApiKey() {
  std::string bytes(kSecretBytes, '\0');
  TESSERA_CHECK(RAND_bytes(reinterpret_cast<unsigned char*>(bytes.data()),
                           static_cast<int>(bytes.size())) == 1);
  return absl::StrCat("tsk-", absl::BytesToHexString(bytes));
}

}  // namespace tessera
