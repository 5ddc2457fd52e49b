#include "server/access/api_keys.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/access/access_control.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

std::string HexDigest(const std::string& key) {
  const KeyDigest digest = DigestOf(key);
  return absl::BytesToHexString(std::string(digest.begin(), digest.end()));
}

std::string Entry(const std::string& name, const std::string& key, const std::string& rest) {
  return absl::StrCat("  - {name: ", name, ", sha256: ", HexDigest(key), ", ", rest, "}\n");
}

std::string ErrorOf(const std::string& yaml) {
  const auto keys = ParseApiKeys(yaml, "keys.yaml");
  EXPECT_FALSE(keys.ok()) << yaml;
  return std::string(keys.status().message());
}

TEST(ApiKeysTest, ReadsWhatItWrites) {
  // Of FIPS 180-2.
  EXPECT_EQ(HexDigest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string yaml =
      absl::StrCat("keys:\n", Entry("ci", "one", "tenant: acme, scopes: [generate]"),
                   Entry("ops", "two", "tenant: acme, scopes: [admin, metrics]"));
  const auto keys = ParseApiKeys(yaml, "keys.yaml");
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_EQ(keys->keys.size(), 2);
  EXPECT_EQ(keys->keys[1].name, "ops");
  EXPECT_THAT(keys->keys[1].scopes, ElementsAre(Scope::kAdmin, Scope::kMetrics));
  const auto again = ParseApiKeys(FormatApiKeys(*keys), "again");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(FormatApiKeys(*again), FormatApiKeys(*keys));
  EXPECT_TRUE(ParseApiKeys("keys: []\n", "none")->keys.empty());
  EXPECT_TRUE(ParseApiKeys(FormatApiKeys({}), "none")->keys.empty());
}

TEST(ApiKeysTest, ReadsAndWritesLimitsOfTenants) {
  const std::string key = Entry("a", "one", "tenant: acme, scopes: [generate]");
  const auto file = ParseApiKeys(
      absl::StrCat("tenants:\n  acme: {requests-per-second: 2.5, tokens-per-minute: 60000,\n"
                   "         concurrent-streams: 8, priority: -3, weight: 2.5, kv-share: 0.25}\n  "
                   "free:\nkeys:\n",
                   key),
      "k");
  ASSERT_TRUE(file.ok()) << file.status();
  const TenantLimits& acme = file->tenants.at("acme");
  EXPECT_EQ(acme.requests_per_second, 2.5);
  EXPECT_EQ(acme.tokens_per_minute, 60000);
  EXPECT_EQ(acme.concurrent_streams, 8);
  EXPECT_EQ(acme.priority, -3);
  EXPECT_EQ(acme.weight, 2.5);
  EXPECT_EQ(acme.kv_share, 0.25);
  EXPECT_EQ(file->tenants.at("free"), TenantLimits{});
  const auto again = ParseApiKeys(FormatApiKeys(*file), "again");
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->tenants, file->tenants);
  const auto limits = [&](const std::string& text) {
    return ErrorOf(absl::StrCat("tenants: {acme: {", text, "}}\nkeys:\n", key));
  };
  EXPECT_THAT(limits("request-per-second: 1"),
              HasSubstr("tenants.acme: unknown field \"request-per-second\"; did you mean "
                        "\"requests-per-second\"?"));
  for (const char* number : {"0", "-1", "nan", "inf", "many", "[1]"}) {
    EXPECT_THAT(limits(absl::StrCat("tokens-per-minute: ", number)),
                HasSubstr("tokens-per-minute must be a number above 0"));
  }
  EXPECT_THAT(limits("concurrent-streams: 0.5"), HasSubstr("must be a number of 1 or more"));
  for (const char* number : {"0", "-1", "nan", "1001", "much", "[1]"}) {
    EXPECT_THAT(limits(absl::StrCat("weight: ", number)),
                HasSubstr("tenants.acme: weight must be a number in [0.001, 1000]"));
    EXPECT_THAT(limits(absl::StrCat("kv-share: ", number)),
                HasSubstr("kv-share must be a number in [0.001, 1]"));
  }
  EXPECT_THAT(limits("priority: 1000"), HasSubstr("priority must be an integer in [-100, 100]"));
  EXPECT_THAT(ErrorOf(absl::StrCat("tenants: {acne: {}}\nkeys:\n", key)),
              HasSubstr("keys[0]: unknown tenant \"acme\"; did you mean \"acne\"?"));
  EXPECT_THAT(ErrorOf("tenants: [a]\nkeys: []\n"), HasSubstr("tenants must be a mapping"));
  EXPECT_THAT(ErrorOf("tenants: {\"a b\": {}}\nkeys: []\n"), HasSubstr("its name must be 1 to 64"));
}

TEST(ApiKeysTest, SaysWhatIsWrongWithAFile) {
  const std::string good = Entry("a", "one", "tenant: t, scopes: [generate]");
  EXPECT_THAT(ErrorOf(""), HasSubstr("keys.yaml: is empty"));
  EXPECT_THAT(ErrorOf("kyes: []\n"), HasSubstr("unknown field \"kyes\"; did you mean \"keys\"?"));
  EXPECT_THAT(ErrorOf("keys: 3\n"), HasSubstr("keys must be a list"));
  EXPECT_THAT(ErrorOf("- a\n"), HasSubstr("must be a mapping"));
  EXPECT_THAT(ErrorOf("keys: [\n"), HasSubstr("not valid YAML"));
  const auto entry = [](const std::string& rest) {
    return ErrorOf(absl::StrCat("keys:\n", Entry("a", "one", rest)));
  };
  EXPECT_THAT(entry("scopes: [generate]"), HasSubstr("keys[0]: has no tenant"));
  EXPECT_THAT(entry("tenant: , scopes: [generate]"), HasSubstr("keys[0]: has no tenant"));
  EXPECT_THAT(entry("tenant: \"a b\", scopes: [generate]"), HasSubstr("tenant must be 1 to 64"));
  EXPECT_THAT(entry("tenant: t"), HasSubstr("scopes must be a list of generate, admin, metrics"));
  EXPECT_THAT(entry("tenant: t, scopes: []"), HasSubstr("scopes must be a list"));
  EXPECT_THAT(entry("tenant: t, scopes: [generat]"),
              HasSubstr("unknown scope \"generat\"; did you mean \"generate\"?"));
  EXPECT_THAT(entry("tennant: t, scopes: [generate]"),
              HasSubstr("unknown field \"tennant\"; did you mean \"tenant\"?"));
  EXPECT_THAT(ErrorOf(absl::StrCat("keys:\n", good, good)),
              HasSubstr("keys[1]: the name \"a\" is that of keys[0]"));
  EXPECT_THAT(
      ErrorOf(absl::StrCat("keys:\n", good, Entry("b", "one", "tenant: t, scopes: [generate]"))),
      HasSubstr("keys[1]: is the same key as keys[0]"));
  // Whoever writes the key itself there does not find it in a log.
  const std::string secret =
      ErrorOf("keys:\n  - {name: a, sha256: tsk-very-secret, tenant: t, scopes: [generate]}\n");
  EXPECT_THAT(secret, HasSubstr("not the key; it has 15 characters"));
  EXPECT_THAT(secret, Not(HasSubstr("very-secret")));
  const std::string long_key = MakeApiKey();
  EXPECT_THAT(ErrorOf(absl::StrCat("keys:\n  - {", long_key, ": a}\n")), Not(HasSubstr(long_key)));
}

// Wherever a file is cut off inside an entry.
TEST(ApiKeysTest, RefusesFilesThatWereCutOff) {
  const auto keys =
      ParseApiKeys(absl::StrCat("keys:\n", Entry("a", "one", "tenant: t, scopes: [generate]"),
                                Entry("b", "two", "tenant: tenant-2, scopes: [generate, metrics]")),
                   "k");
  const std::string text = FormatApiKeys(*keys);
  const size_t second = text.find("  - name: \"b\"");
  // Without its last line feed it is complete.
  for (size_t size = 0; size + 1 < text.size(); ++size) {
    if (size == second || size + 1 == second) continue;  // a file with one key fewer
    EXPECT_FALSE(ParseApiKeys(text.substr(0, size), "k").ok()) << text.substr(0, size);
  }
}

class KeyFileTest : public ::testing::Test {
 protected:
  KeyFileTest() : path_(absl::StrCat(::testing::TempDir(), "keys.XXXXXX")) {
    close(mkstemp(path_.data()));
  }
  ~KeyFileTest() override { std::filesystem::remove(path_); }

  KeyFile Keys(const std::string& rest) const {
    return *ParseApiKeys(absl::StrCat("keys:\n", rest), "test");
  }
  mode_t Mode() const {
    struct stat info = {};
    stat(path_.c_str(), &info);
    return info.st_mode & 07777U;
  }

  std::string path_;
};

TEST_F(KeyFileTest, IsForItsOwnerAlone) {
  std::filesystem::remove(path_);
  const auto keys = Keys(Entry("a", "one", "tenant: t, scopes: [generate]"));
  ASSERT_TRUE(WriteApiKeys(path_, keys).ok());
  EXPECT_EQ(Mode(), 0600);
  chmod(path_.c_str(), 0640);
  ASSERT_TRUE(WriteApiKeys(path_, keys).ok());
  EXPECT_EQ(Mode(), 0640);
  EXPECT_EQ(ReadApiKeys(path_)->keys.size(), 1);
  for (const mode_t mode : {0644, 0602, 0777}) {
    chmod(path_.c_str(), mode);
    const absl::Status status = ReadApiKeys(path_).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kPermissionDenied);
    EXPECT_THAT(status.message(), HasSubstr(absl::StrCat(path_, ": everybody on this machine")));
  }
  EXPECT_EQ(WriteApiKeys("/no such folder/keys", keys).code(), absl::StatusCode::kUnavailable);
}

TEST_F(KeyFileTest, AdmitsByScope) {
  ASSERT_TRUE(WriteApiKeys(path_, Keys(Entry("gen", "g", "tenant: t, scopes: [generate]") +
                                       Entry("adm", "a", "tenant: t, scopes: [admin]") +
                                       Entry("met", "m", "tenant: t, scopes: [metrics]")))
                  .ok());
  const auto access = AccessControl::Start(path_);
  ASSERT_TRUE(access.ok()) << access.status();
  AuthFailure failure = AuthFailure::kMissing;
  const auto code = [&](const Credentials& credentials, Permission wanted) {
    return (*access)->Admit(credentials, wanted, &failure).status().code();
  };
  const auto admits = [&](const char* key, Permission wanted) {
    return code({.api_key = key}, wanted) == absl::StatusCode::kOk;
  };
  const auto all = {Permission::kKnown, Permission::kGenerate, Permission::kObserve,
                    Permission::kAdmin};
  std::vector<std::string> allowed;
  for (const char* key : {"g", "a", "m"}) {
    std::string row;
    for (const Permission wanted : all) row += admits(key, wanted) ? 'y' : '-';
    allowed.push_back(row);
  }
  EXPECT_THAT(allowed, ElementsAre("yy--", "y-yy", "y-y-"));
  EXPECT_EQ(code({.api_key = "g"}, Permission::kAdmin), absl::StatusCode::kPermissionDenied);
  EXPECT_EQ(failure, AuthFailure::kForbidden);
  EXPECT_EQ(code({}, Permission::kKnown), absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(failure, AuthFailure::kMissing);
  EXPECT_EQ(code({.authorization = "Basic g"}, Permission::kKnown),
            absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(failure, AuthFailure::kMalformed);
  EXPECT_EQ(code({.authorization = "Bearer gg"}, Permission::kKnown),
            absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(failure, AuthFailure::kUnknown);
  EXPECT_EQ(code({.authorization = "Bearer "}, Permission::kKnown),
            absl::StatusCode::kUnauthenticated);
  EXPECT_EQ(failure, AuthFailure::kMissing);
  for (const char* form : {"Bearer g", "bearer g", "BEARER   g "}) {
    const auto caller = (*access)->Admit({.authorization = form}, Permission::kKnown, &failure);
    ASSERT_TRUE(caller.ok()) << form;
    EXPECT_EQ(caller->key->tenant, "t");
    EXPECT_EQ(caller->tenant->name(), "t");
  }
}

TEST_F(KeyFileTest, FollowsItsFile) {
  ASSERT_TRUE(WriteApiKeys(path_, Keys(Entry("a", "one", "tenant: t, scopes: [admin]"))).ok());
  const auto access = AccessControl::Start(path_);
  ASSERT_TRUE(access.ok()) << access.status();
  AuthFailure failure = AuthFailure::kMissing;
  const auto knows = [&](const char* key) {
    return (*access)->Admit({.api_key = key}, Permission::kKnown, &failure).ok();
  };
  const auto await = [&](const std::function<bool()>& condition) {
    for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
    return condition();
  };
  EXPECT_TRUE(knows("one"));
  // A damaged file changes nothing.
  std::ofstream(path_) << "keys:\n  - {name: b";
  (*access)->ReadNow();
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_TRUE(knows("one"));
  ASSERT_TRUE(WriteApiKeys(path_, Keys(Entry("b", "two", "tenant: t, scopes: [admin]"))).ok());
  EXPECT_TRUE(await([&] { return knows("two") && !knows("one"); }));
}

TEST(ApiKeysTest, NewKeysAreLongAndDiffer) {
  const std::string key = MakeApiKey();
  EXPECT_THAT(key, StartsWith("tsk-"));
  EXPECT_EQ(key.size(), 68);
  EXPECT_NE(key, MakeApiKey());
}

}  // namespace
}  // namespace tessera
