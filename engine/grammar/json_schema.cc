#include "engine/grammar/json_schema.h"

#include <utility>

#include "absl/container/flat_hash_set.h"
#include "engine/files/message.h"
#include "engine/grammar/schema_compiler.h"
#include "engine/grammar/schema_document.h"
#include "kernels/core/status_macros.h"

namespace tessera::grammar {
namespace {

struct OneSchema {
  std::string name;
  bool object_only = false;
  std::unique_ptr<SchemaDocument> document;
  absl::flat_hash_set<const JsonNode*> exact;  // lists of oneOf
  std::unique_ptr<SchemaCompiler> compiler;

  absl::Status Named(const absl::Status& status) const {
    if (status.ok() || name.empty()) return status;
    return absl::Status(status.code(), Message(name, status.message()));
  }

  absl::StatusOr<RuleId> Compile(GrammarBuilder* builder) {
    document->set_exact(exact);
    compiler = std::make_unique<SchemaCompiler>(document.get(), builder);
    Claims claims = {{document->root(), false}};
    if (object_only) claims.push_back({document->object(), false});
    absl::StatusOr<RuleId> root = compiler->ValuesOf(claims);
    if (!root.ok()) return Named(root.status());
    RETURN_IF_ERROR(Named(compiler->CompileAll()));
    return root;
  }

  // Whether branches of `oneOf` turned out to overlap that were taken to exclude each other.
  bool TakeOverlaps(const GrammarBuilder& builder) {
    const size_t before = exact.size();
    for (const auto& [rule, list] : compiler->overlaps()) {
      if (!builder.IsEmpty(rule)) exact.insert(list);
    }
    return exact.size() > before;
  }
};

}  // namespace

// Where branches of `oneOf` overlap, which the compiled rules show, all is compiled again with each
// branch of these lists spelled out as "this one and none of the others".
absl::StatusOr<std::shared_ptr<const Grammar>> CompileJsonSchemas(
    absl::Span<const SchemaText> schemas, const RootOf& root_of, BuildBudget* budget) {
  std::vector<OneSchema> all;
  for (const SchemaText& schema : schemas) {
    absl::StatusOr<std::unique_ptr<SchemaDocument>> document = SchemaDocument::Read(schema.json);
    all.push_back({.name = schema.name, .object_only = schema.object_only});
    if (!document.ok()) return all.back().Named(document.status());
    all.back().document = *std::move(document);
  }
  while (true) {
    GrammarBuilder builder(budget);
    std::vector<RuleId> roots;
    for (OneSchema& schema : all) {
      ASSIGN_OR_RETURN(const RuleId root, schema.Compile(&builder));
      roots.push_back(root);
    }
    const RuleId root = root_of(roots, &builder);
    ASSIGN_OR_RETURN(std::shared_ptr<const Grammar> grammar, builder.Finish(root));
    bool again = false;
    for (OneSchema& schema : all) again = schema.TakeOverlaps(builder) || again;
    if (!again) return grammar;
  }
}

}  // namespace tessera::grammar
