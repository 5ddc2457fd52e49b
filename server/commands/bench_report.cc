#include "server/commands/bench_report.h"

#include <algorithm>
#include <map>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "server/commands/percentiles.h"
#include "server/json_text.h"

namespace tessera {
namespace {

struct ErrorsOfCode {
  int64_t count = 0;
  std::string first;
};

std::map<std::string, ErrorsOfCode> Errors(const WorkloadResult& result) {
  std::map<std::string, ErrorsOfCode> errors;
  for (const RequestSample& sample : result.samples) {
    if (sample.status.ok()) continue;
    ErrorsOfCode& of_code = errors[absl::StatusCodeToString(sample.status.code())];
    if (of_code.count++ == 0) of_code.first = std::string(sample.status.message());
  }
  return errors;
}

double PerSecond(double count, const WorkloadResult& result) {
  return result.seconds > 0 ? count / result.seconds : 0;
}

int64_t NumGood(const BenchReport& report) {
  return std::ranges::count_if(report.result.samples, [&](const RequestSample& sample) {
    return report.objective.IsMetBy(sample);
  });
}

int64_t PromptTokens(const WorkloadResult& result) {
  int64_t tokens = 0;
  for (const RequestSample& sample : result.samples) tokens += sample.prompt_tokens;
  return tokens;
}

std::string ObjectiveText(const Objective& objective) {
  std::vector<std::string> parts;
  if (objective.first_token) {
    parts.push_back("first token in " + absl::FormatDuration(*objective.first_token));
  }
  if (objective.inter_token) {
    parts.push_back("others in " + absl::FormatDuration(*objective.inter_token));
  }
  return absl::StrJoin(parts, ", ");
}

std::string SecondsJson(const std::optional<absl::Duration>& time) {
  return time ? absl::StrFormat("%.6g", absl::ToDoubleSeconds(*time)) : "null";
}

std::string GoodputJson(const BenchReport& report) {
  if (!report.objective.is_set()) return "null";
  const auto good = static_cast<double>(NumGood(report));
  const double all = std::max<double>(1, std::ssize(report.result.samples));
  return absl::StrFormat(
      "{\"time_to_first_token_seconds\": %s, \"inter_token_latency_seconds\": %s, "
      "\"requests_per_second\": %.6g, \"share\": %.6g}",
      SecondsJson(report.objective.first_token), SecondsJson(report.objective.inter_token),
      PerSecond(good, report.result), good / all);
}

std::string ErrorsJson(const WorkloadResult& result) {
  std::vector<std::string> members;
  for (const auto& [code, errors] : Errors(result)) {
    members.push_back(absl::StrCat("\"", code, "\": {\"count\": ", errors.count,
                                   ", \"first\": ", JsonQuoted(errors.first), "}"));
  }
  return absl::StrCat("{", absl::StrJoin(members, ", "), "}");
}

std::string HeadText(const BenchReport& report) {
  const WorkloadResult& r = report.result;
  std::string text = absl::StrFormat("%s: %d requests, ", report.mode, std::ssize(r.samples));
  if (report.is_open) {
    absl::StrAppendFormat(&text, "%.2f a second sent",
                          PerSecond(static_cast<double>(std::ssize(r.samples)), r));
  } else {
    absl::StrAppendFormat(&text, "%d at a time", report.shape.concurrency);
  }
  const double count = std::max<double>(1, std::ssize(r.samples));
  absl::StrAppendFormat(&text, ", %.0f tokens in, %.0f out, %d failed, %.2f s\n",
                        static_cast<double>(PromptTokens(r)) / count,
                        static_cast<double>(r.output_tokens()) / count, r.num_failed(), r.seconds);
  return text;
}

}  // namespace

bool Objective::IsMetBy(const RequestSample& sample) const {
  if (!sample.status.ok()) return false;
  if (first_token && sample.time_to_first_token > absl::ToDoubleSeconds(*first_token)) return false;
  if (!inter_token || sample.inter_token.empty()) return true;
  const double sum = std::accumulate(sample.inter_token.begin(), sample.inter_token.end(), 0.0);
  return sum / static_cast<double>(sample.inter_token.size()) <=
         absl::ToDoubleSeconds(*inter_token);
}

double TokensPerSecond(const BenchReport& report) {
  const WorkloadResult& r = report.result;
  const std::vector<double> inter_token = r.inter_token();
  if (report.is_open || report.shape.concurrency > 1 || inter_token.empty()) {
    return PerSecond(static_cast<double>(r.output_tokens()), r);
  }
  const double median = Percentile(inter_token, 0.5);
  return median > 0 ? 1 / median : 0;
}

std::string BenchReportText(const BenchReport& report) {
  const WorkloadResult& r = report.result;
  const double value = TokensPerSecond(report);
  std::string text = HeadText(report);
  if (report.limit > 0) {
    absl::StrAppendFormat(&text,
                          "output tokens/s          limit %.1f (memory bandwidth), value %.1f, "
                          "ratio %.3f\n",
                          report.limit, value, value / report.limit);
  } else {
    absl::StrAppendFormat(&text, "output tokens/s          value %.1f\n", value);
  }
  if (report.objective.is_set()) {
    const auto good = static_cast<double>(NumGood(report));
    absl::StrAppendFormat(
        &text, "goodput                  %.2f requests/s, %.1f %% (%s)\n", PerSecond(good, r),
        100 * good / std::max<double>(1, std::ssize(r.samples)), ObjectiveText(report.objective));
  }
  absl::StrAppend(
      &text, PercentilesText("time to first token", r.All(&RequestSample::time_to_first_token)),
      PercentilesText("inter-token latency", r.inter_token()),
      PercentilesText("request", r.All(&RequestSample::end_to_end)));
  if (report.is_open) {
    absl::StrAppend(&text, PercentilesText("sent late by", r.All(&RequestSample::lateness)));
  }
  for (const auto& [code, errors] : Errors(r)) {
    absl::StrAppend(&text, "error ", code, ": ", errors.count, " times, first: ", errors.first,
                    "\n");
  }
  return text;
}

std::string BenchReportJson(const BenchReport& report) {
  const WorkloadResult& r = report.result;
  const double value = TokensPerSecond(report);
  const std::string limit = report.limit > 0 ? absl::StrFormat("\"limit\": %.6g, \"ratio\": %.6g, ",
                                                               report.limit, value / report.limit)
                                             : "\"limit\": null, \"ratio\": null, ";
  return absl::StrCat(
      "{\"mode\": \"", report.mode, "\", \"loop\": \"", report.is_open ? "open" : "closed",
      "\", \"rate\": ", absl::StrFormat("%.6g", report.shape.rate),
      ", \"requests\": ", std::ssize(r.samples), ", \"concurrency\": ", report.shape.concurrency,
      ", \"input_len\": ", report.shape.input_len, ", \"output_len\": ", report.shape.output_len,
      ", \"failed\": ", r.num_failed(), ", \"errors\": ", ErrorsJson(r),
      ", \"seconds\": ", absl::StrFormat("%.6g", r.seconds),
      ", \"input_tokens\": ", PromptTokens(r), ", \"output_tokens\": ", r.output_tokens(),
      ", \"requests_per_second\": ",
      absl::StrFormat("%.6g",
                      PerSecond(static_cast<double>(std::ssize(r.samples) - r.num_failed()), r)),
      ", \"output_tokens_per_second\": ", absl::StrFormat("%.6g", value), ", ", limit,
      "\"goodput\": ", GoodputJson(report), ", ",
      PercentilesJson("time_to_first_token_seconds", r.All(&RequestSample::time_to_first_token)),
      ", ", PercentilesJson("inter_token_latency_seconds", r.inter_token()), ", ",
      PercentilesJson("request_seconds", r.All(&RequestSample::end_to_end)), ", ",
      PercentilesJson("lateness_seconds", r.All(&RequestSample::lateness)), "}\n");
}

}  // namespace tessera
