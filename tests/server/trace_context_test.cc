#include "server/trace_context.h"

#include <gtest/gtest.h>

#include <string>

namespace tessera {
namespace {

constexpr char kId[] = "0af7651916cd43dd8448eb211c80319c";

std::string Header(const std::string& version, const std::string& id, const std::string& rest) {
  return version + "-" + id + "-" + rest;
}

TEST(TraceContextTest, FindsTheTraceId) {
  EXPECT_EQ(TraceIdOf(Header("00", kId, "b7ad6b7169203331-01")), kId);
  EXPECT_EQ(TraceIdOf(Header("01", kId, "b7ad6b7169203331-00-more")), kId) << "a later version";
}

TEST(TraceContextTest, IgnoresWhatIsNotValid) {
  for (const std::string& header :
       {std::string(), std::string(55, '-'), std::string(kId),
        Header("ff", kId, "b7ad6b7169203331-01"), Header("00", kId, "0000000000000000-01"),
        Header("00", std::string(32, '0'), "b7ad6b7169203331-01"),
        Header("00", "0AF7651916CD43DD8448EB211C80319C", "b7ad6b7169203331-01"),
        Header("00", kId, "b7ad6b7169203331-0"), Header("00", kId, "b7ad6b7169203331-01-more"),
        Header("00", kId, "b7ad6b7169203331_01"), Header("0\n", kId, "b7ad6b7169203331-01")}) {
    EXPECT_EQ(TraceIdOf(header), "") << header;
  }
}

}  // namespace
}  // namespace tessera
