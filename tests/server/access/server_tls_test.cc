#include "server/access/server_tls.h"

#include <gmock/gmock.h>

#include <atomic>
#include <fstream>
#include <sstream>
#include <string>

#include "absl/time/clock.h"
#include "server/access/file_watch.h"
#include "tests/server/access/test_certificate.h"

namespace tessera {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Content(const std::string& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

bool Await(const std::function<bool()>& condition) {
  for (int i = 0; i < 1000 && !condition(); ++i) absl::SleepFor(absl::Milliseconds(10));
  return condition();
}

TEST(TlsIdentityTest, SaysWhatItHolds) {
  const TestTlsFiles files;
  const auto identity = ReadTlsIdentity(files.files(), absl::Now());
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_THAT(identity->hosts, ElementsAre("localhost", "127.0.0.1"));
  EXPECT_LT(absl::AbsDuration(identity->expiry - absl::Now() - absl::Hours(24)), absl::Minutes(1));
  EXPECT_THAT(identity->warnings, ElementsAre(HasSubstr("is self-signed")));
  std::filesystem::permissions(files.path("key.pem"), std::filesystem::perms(0644));
  EXPECT_THAT(ReadTlsIdentity(files.files(), absl::Now())->warnings,
              ElementsAre(HasSubstr("is self-signed"), HasSubstr("everybody on this machine")));
}

TEST(TlsIdentityTest, RefusesWhatIsNotValidNow) {
  const TestTlsFiles files;
  files.Write(MakeCertificate(-60, -1));
  EXPECT_THAT(ReadTlsIdentity(files.files(), absl::Now()).status().message(),
              HasSubstr("cert.pem: has expired on 20"));
  files.Write(MakeCertificate(600, 900));
  EXPECT_THAT(ReadTlsIdentity(files.files(), absl::Now()).status().message(),
              HasSubstr("cert.pem: is not valid before 20"));
  // The earliest date of a chain counts, and every certificate in it.
  const TestCertificate own = MakeCertificate();
  files.Write({own.certificate + MakeCertificate(-60, 600).certificate, own.key});
  EXPECT_LT(ReadTlsIdentity(files.files(), absl::Now())->expiry, absl::Now() + absl::Hours(1));
  files.Write({own.certificate + MakeCertificate(-60, -1).certificate, own.key});
  EXPECT_FALSE(ReadTlsIdentity(files.files(), absl::Now()).ok());
}

TEST(MemoryFileTest, EveryContentHasATimeOfItsOwn) {
  MemoryFile file;
  ASSERT_TRUE(file.Replace("a long content").ok());
  const auto first = std::filesystem::last_write_time(file.path());
  EXPECT_EQ(Content(file.path()), "a long content");
  std::ifstream reader(file.path());
  ASSERT_TRUE(file.Replace("short").ok());
  EXPECT_EQ(Content(file.path()), "short");
  EXPECT_NE(std::filesystem::last_write_time(file.path()), first);
  // Who has begun to read the one before reads it to its end.
  std::string begun;
  std::getline(reader, begun);
  EXPECT_EQ(begun, "a long content");
}

TEST(ServerTlsTest, ShowsNewFilesAndNeverHalfOfThem) {
  const TestTlsFiles files;
  const auto tls = ServerTls::Start(files.files());
  ASSERT_TRUE(tls.ok()) << tls.status();
  const auto first = (*tls)->identity();
  EXPECT_EQ(Content((*tls)->identity_path()), first->key + "\n" + first->certificate);
  const TestCertificate next = MakeCertificate();
  files.WriteFile("key.pem", next.key);
  (*tls)->ReadNow();
  absl::SleepFor(absl::Milliseconds(100));
  EXPECT_EQ((*tls)->identity(), first);
  files.WriteFile("cert.pem", next.certificate);
  EXPECT_TRUE(Await([&] { return (*tls)->identity()->certificate == next.certificate; }));
  EXPECT_EQ(Content((*tls)->identity_path()), next.key + "\n" + next.certificate);
}

TEST(FileWatchTest, ReadsWhatHasChangedAndTriesAgainWhatFails) {
  const TestTlsFiles files;
  std::atomic<int> reads = 0;
  std::atomic<bool> works = true;
  FileWatch watch(
      {files.path("key.pem"), files.path("none.pem")},
      [&] {
        ++reads;
        return works ? absl::OkStatus() : absl::UnavailableError("not now");
      },
      absl::Milliseconds(5));
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(reads, 0);
  files.WriteFile("none.pem", "it is there now");
  EXPECT_TRUE(Await([&] { return reads == 1; }));
  // As Kubernetes does: another file takes the place.
  files.WriteFile("other.pem", "other");
  std::filesystem::rename(files.path("other.pem"), files.path("key.pem"));
  EXPECT_TRUE(Await([&] { return reads == 2; }));
  works = false;
  watch.ReadNow();
  EXPECT_TRUE(Await([&] { return reads > 4; }));
  works = true;
  absl::SleepFor(absl::Milliseconds(50));
  const int read = reads;
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_EQ(reads, read);
}

}  // namespace
}  // namespace tessera
