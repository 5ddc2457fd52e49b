#include "server/grpc/reflection.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <memory>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "grpc/reflection/v1/reflection.pb.h"
#include "kernels/core/status_macros.h"
#include "server/grpc/message_buffer.h"
#include "server/grpc/status_mapping.h"

namespace tessera {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

constexpr int64_t kMaxQuestionBytes = 4 << 10;

// The file and what it imports, each once.
void AddFiles(const FileDescriptor& file, absl::flat_hash_set<const FileDescriptor*>* added,
              ServerReflectionResponse* response) {
  if (!added->insert(&file).second) return;
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  response->mutable_file_descriptor_response()->add_file_descriptor_proto(
      proto.SerializeAsString());
  for (int i = 0; i < file.dependency_count(); ++i) {
    AddFiles(*file.dependency(i), added, response);
  }
}

absl::Status AnswerFile(const FileDescriptor* file, const std::string& wanted,
                        ServerReflectionResponse* response) {
  if (file == nullptr) return absl::NotFoundError(absl::StrCat("there is no ", wanted));
  absl::flat_hash_set<const FileDescriptor*> added;
  AddFiles(*file, &added, response);
  return absl::OkStatus();
}

absl::Status AnswerExtension(const grpc::reflection::v1::ExtensionRequest& wanted,
                             ServerReflectionResponse* response) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  const Descriptor* type = pool.FindMessageTypeByName(wanted.containing_type());
  const FieldDescriptor* extension =
      type == nullptr ? nullptr : pool.FindExtensionByNumber(type, wanted.extension_number());
  return AnswerFile(
      extension == nullptr ? nullptr : extension->file(),
      absl::StrCat("extension ", wanted.extension_number(), " of ", wanted.containing_type()),
      response);
}

absl::Status AnswerExtensionNumbers(const std::string& name, ServerReflectionResponse* response) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  const Descriptor* type = pool.FindMessageTypeByName(name);
  if (type == nullptr) return absl::NotFoundError(absl::StrCat("there is no message ", name));
  std::vector<const FieldDescriptor*> extensions;
  pool.FindAllExtensions(type, &extensions);
  auto* numbers = response->mutable_all_extension_numbers_response();
  numbers->set_base_type_name(name);
  for (const FieldDescriptor* extension : extensions) {
    numbers->add_extension_number(extension->number());
  }
  return absl::OkStatus();
}

absl::Status AnswerInto(const ServerReflectionRequest& question,
                        const std::vector<std::string>& services,
                        ServerReflectionResponse* response) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  switch (question.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      return AnswerFile(pool.FindFileByName(question.file_by_filename()),
                        absl::StrCat("file ", question.file_by_filename()), response);
    case ServerReflectionRequest::kFileContainingSymbol:
      return AnswerFile(pool.FindFileContainingSymbol(question.file_containing_symbol()),
                        absl::StrCat("symbol ", question.file_containing_symbol()), response);
    case ServerReflectionRequest::kFileContainingExtension:
      return AnswerExtension(question.file_containing_extension(), response);
    case ServerReflectionRequest::kAllExtensionNumbersOfType:
      return AnswerExtensionNumbers(question.all_extension_numbers_of_type(), response);
    case ServerReflectionRequest::kListServices:
      for (const std::string& service : services) {
        response->mutable_list_services_response()->add_service()->set_name(service);
      }
      return absl::OkStatus();
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      break;
  }
  return absl::InvalidArgumentError("message_request must be set");
}

ServerReflectionResponse AnswerTo(const ServerReflectionRequest& question,
                                  const std::vector<std::string>& services) {
  ServerReflectionResponse response;
  response.set_valid_host(question.host());
  *response.mutable_original_request() = question;
  const absl::Status status = AnswerInto(question, services, &response);
  if (status.ok()) return response;
  auto* error = response.mutable_error_response();
  error->set_error_code(static_cast<int>(status.code()));
  error->set_error_message(std::string(status.message()));
  return response;
}

// One question at a time: the next is read when the answer is written. A client that asks nothing
// for longer than a message may take is let go.
class ReflectionCall final : public grpc::ServerGenericBidiReactor,
                             public MessageIntake::Waiting,
                             public std::enable_shared_from_this<ReflectionCall> {
 public:
  ReflectionCall(const GrpcCall& call, const std::vector<std::string>& services)
      : call_(call), services_(services) {}

  void Start() {
    self_ = shared_from_this();
    Read();
  }

  void OnReadDone(bool ok) override {
    if (!call_.intake->Leave(ticket_)) return;
    if (!ok) return End(absl::OkStatus());
    const auto question = ParseBuffer<ServerReflectionRequest>(message_, kMaxQuestionBytes);
    if (!question.ok()) return End(question.status());
    message_ = ToBuffer(AnswerTo(*question, services_));
    StartWrite(&message_);
  }
  void OnWriteDone(bool ok) override {
    if (!ok) return End(absl::CancelledError("the client has gone"));
    Read();
  }
  void GiveUp(const absl::Status& why) override { End(why); }
  void OnDone() override { const std::shared_ptr<ReflectionCall> last = std::move(self_); }

 private:
  void Read() {
    ticket_ = call_.intake->Enter(weak_from_this());
    StartRead(&message_);
  }
  void End(const absl::Status& status) { Finish(ToGrpcStatus(status, call_.call)); }

  const GrpcCall call_;
  const std::vector<std::string>& services_;
  std::shared_ptr<ReflectionCall> self_;
  MessageIntake::Ticket ticket_ = 0;  // of the read under way
  grpc::ByteBuffer message_;
};

}  // namespace

grpc::ServerGenericBidiReactor* StartReflection(const GrpcCall& call,
                                                const std::vector<std::string>& services) {
  const auto reactor = std::make_shared<ReflectionCall>(call, services);
  reactor->Start();
  return reactor.get();
}

}  // namespace tessera
