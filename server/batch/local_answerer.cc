#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "kernels/core/exception_boundary.h"
#include "kernels/core/status_macros.h"
#include "server/batch/answerer.h"
#include "server/http/openai/api_error.h"
#include "server/http/openai/api_kind.h"
#include "server/request_builder.h"

namespace tessera {
namespace {

class LocalAnswerer final : public Answerer {
 public:
  LocalAnswerer(TextGenerator* generator, const ServedModel* model)
      : generator_(*generator), model_(*model), builder_(model, RequestLimits{}) {}

  absl::StatusOr<BatchAnswer> Answer(int64_t line, const BatchRequest& request) override {
    BatchAnswer answer{.line = line, .custom_id = request.custom_id};
    ApiRequest asked;
    asked.kind = request.kind;
    const absl::Status status = Guarded([&] { return TryAnswer(request, &asked, &answer); });
    if (status.ok()) return answer;
    // The engine's end; everything else is about this one request.
    if (absl::IsUnavailable(status)) return status;
    const HttpError error = ApiErrorOf(status, asked);
    answer.http_status = error.status;
    answer.body = ApiErrorResponse(FactsOf(request.kind).path, error).body;
    return answer;
  }

 private:
  absl::Status TryAnswer(const BatchRequest& request, ApiRequest* asked, BatchAnswer* answer) {
    const ApiKindFacts& kind = FactsOf(request.kind);
    ASSIGN_OR_RETURN(*asked, kind.read(request.body));
    std::vector<PromptOutput> outputs;
    for (const v1::GenerateRequest& prompt : asked->prompts) {
      ASSIGN_OR_RETURN(PromptOutput output, OutputOf(*asked, prompt));
      answer->output_tokens += output.response.usage().completion_tokens();
      outputs.push_back(std::move(output));
    }
    const AnswerFacts facts{.request = asked,
                            .encoder = model_.encoder.get(),
                            .id = kind.id_prefix + BatchRequestId(answer->line),
                            .model = model_.name,
                            .created = absl::ToUnixSeconds(absl::Now())};
    answer->body = kind.new_format(&facts)->Whole(outputs);
    answer->http_status = 200;
    return absl::OkStatus();
  }

  absl::StatusOr<PromptOutput> OutputOf(const ApiRequest& asked,
                                        const v1::GenerateRequest& prompt) {
    PromptOutput output;
    ASSIGN_OR_RETURN(output.response, Generate(generator_, prompt));
    auto* choices = output.response.mutable_choices();
    std::sort(choices->pointer_begin(), choices->pointer_end(),
              [](const v1::Choice* a, const v1::Choice* b) { return a->index() < b->index(); });
    if (asked.echo || asked.return_token_ids) {
      ASSIGN_OR_RETURN(const GenerateRequest built, builder_.Build(prompt));
      output.prompt_ids = built.prompt_ids;
    }
    return output;
  }

  TextGenerator& generator_;
  const ServedModel& model_;
  const RequestBuilder builder_;
};

}  // namespace

std::unique_ptr<Answerer> MakeLocalAnswerer(TextGenerator* generator, const ServedModel* model) {
  return std::make_unique<LocalAnswerer>(generator, model);
}

}  // namespace tessera
