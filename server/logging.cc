#include "server/logging.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>

namespace tessera {

void InitLogging(const std::string& level) {
  auto logger = spdlog::get("tessera");
  if (logger == nullptr) logger = spdlog::stderr_color_mt("tessera");
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%l%$ %v");
  logger->set_level(spdlog::level::from_str(level));
  spdlog::set_default_logger(std::move(logger));
}

void LogInfo(const std::string& text) { spdlog::default_logger_raw()->info(text); }
void LogWarning(const std::string& text) { spdlog::default_logger_raw()->warn(text); }
void LogError(const std::string& text) { spdlog::default_logger_raw()->error(text); }
bool LogsDebug() { return spdlog::default_logger_raw()->should_log(spdlog::level::debug); }
void LogDebug(const std::string& text) { spdlog::default_logger_raw()->debug(text); }

}  // namespace tessera
