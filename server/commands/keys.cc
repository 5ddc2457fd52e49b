// tessera keys: the file of API keys that a server reads.
#include <sys/stat.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/core/status_macros.h"
#include "server/access/api_keys.h"
#include "server/commands/command.h"

namespace tessera {
namespace {

struct KeysFlags {
  std::string name;
  std::string tenant;
  std::vector<std::string> scopes;
};

bool Exists(const std::string& path) {
  struct stat info = {};
  return stat(path.c_str(), &info) == 0;
}

auto FindKey(std::vector<ApiKey>* keys, const std::string& name) {
  return std::find_if(keys->begin(), keys->end(),
                      [&](const ApiKey& key) { return key.name == name; });
}

// A key from the words of the command line, as if they had stood in a file.
absl::StatusOr<ApiKey> KeyFromFlags(const KeysFlags& flags, const std::string& secret) {
  const KeyDigest digest = DigestOf(secret);
  const std::string yaml = absl::StrCat(
      "keys: [{name: \"", absl::CEscape(flags.name), "\", tenant: \"", absl::CEscape(flags.tenant),
      "\", sha256: ", absl::BytesToHexString(std::string(digest.begin(), digest.end())),
      ", scopes: [\"", absl::StrJoin(flags.scopes, "\", \""), "\"]}]");
  ASSIGN_OR_RETURN(KeyFile file, ParseApiKeys(yaml, "--name, --tenant, --scope"));
  return std::move(file.keys.front());
}

absl::Status Add(const std::string& path, const KeysFlags& flags) {
  KeyFile file;
  if (Exists(path)) {
    ASSIGN_OR_RETURN(file, ReadApiKeys(path));
  }
  const std::string secret = MakeApiKey();
  ASSIGN_OR_RETURN(ApiKey key, KeyFromFlags(flags, secret));
  if (FindKey(&file.keys, key.name) != file.keys.end()) {
    return absl::AlreadyExistsError(absl::StrCat(path, ": there is a key \"", key.name, "\""));
  }
  // Who limits tenants limits new ones, too.
  if (!file.tenants.empty() && file.tenants.count(key.tenant) == 0) {
    return absl::NotFoundError(
        absl::StrCat(path, ": its tenants do not have \"", key.tenant, "\""));
  }
  file.keys.push_back(std::move(key));
  RETURN_IF_ERROR(WriteApiKeys(path, file));
  std::fputs("This is the key. It is not stored anywhere: keep it.\n", stderr);
  Print(absl::StrCat(secret, "\n"));
  return absl::OkStatus();
}

absl::Status List(const std::string& path) {
  ASSIGN_OR_RETURN(const KeyFile file, ReadApiKeys(path));
  for (const ApiKey& key : file.keys) {
    std::vector<std::string> scopes;
    for (const Scope scope : key.scopes) {
      scopes.emplace_back(kScopeNames[static_cast<size_t>(scope)]);
    }
    Print(absl::StrCat(key.name, "\ttenant ", key.tenant, "\t", absl::StrJoin(scopes, ", "), "\n"));
  }
  return absl::OkStatus();
}

absl::Status Remove(const std::string& path, const KeysFlags& flags) {
  ASSIGN_OR_RETURN(KeyFile file, ReadApiKeys(path));
  const auto found = FindKey(&file.keys, flags.name);
  if (found == file.keys.end()) {
    return absl::NotFoundError(absl::StrCat(path, ": there is no key \"", flags.name, "\""));
  }
  file.keys.erase(found);
  return WriteApiKeys(path, file);
}

}  // namespace

int RunKeys(const Arguments& arguments) {
  OptionTable table("tessera keys", "add|list|remove FILE",
                    "add FILE: makes a key for a tenant, prints it once and writes its SHA-256 "
                    "into FILE.\nlist FILE: names, tenants and scopes.\nremove FILE: the key of "
                    "--name is good no more.\nServers with --api-keys FILE follow within a second. "
                    "Comments in FILE are lost.");
  KeysFlags flags;
  table.Text("name", &flags.name, "Name of the key, for lists and logs; no secret.");
  table.Text("tenant", &flags.tenant, "Who the key belongs to.");
  table.List("scope", &flags.scopes,
             "What the key is good for: generate, admin, metrics; none: generate.");
  std::vector<std::string> positional;
  if (const auto exit = ParseCommandLine(&table, "keys", arguments, &positional, 2)) return *exit;
  if (flags.scopes.empty()) flags.scopes = {kScopeNames[0]};
  const std::string& action = positional[0];
  const std::string& path = positional[1];
  absl::Status status;
  if (action == "add") {
    status = Add(path, flags);
  } else if (action == "list") {
    status = List(path);
  } else if (action == "remove") {
    status = Remove(path, flags);
  } else {
    return FailUsage("keys", absl::InvalidArgumentError(
                                 absl::StrCat("\"", action, "\" is not add, list or remove")));
  }
  return status.ok() ? kExitOk : Fail("keys", status);
}

}  // namespace tessera
