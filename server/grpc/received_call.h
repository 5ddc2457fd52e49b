// A call from its headers on. gRPC hands the headers over before the message, so that who may not
// call, or finds no room, is refused before a byte of the message is read.
#ifndef TESSERA_SERVER_GRPC_RECEIVED_CALL_H_
#define TESSERA_SERVER_GRPC_RECEIVED_CALL_H_

#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "server/grpc/message_intake.h"
#include "server/inference_context.h"

namespace tessera {

// What every call is made with; all outlive it.
struct GrpcCall {
  InferenceContext* context = nullptr;
  MessageIntake* intake = nullptr;
  grpc::GenericCallbackServerContext* call = nullptr;  // gRPC's, until OnEnded()
};

// Of one message from the client. Receive() leads to OnMessage(), to OnNoMessage() or to
// OnClientGone(true), whichever comes first. All on gRPC's threads or the intake's.
class ReceivedCall : public grpc::ServerGenericBidiReactor, public MessageIntake::Waiting {
 public:
  // Keeps `self`, which is this object, until gRPC is done with the call. First.
  void Hold(std::shared_ptr<ReceivedCall> self) { self_ = std::move(self); }

  void GiveUp(const absl::Status& why) final;
  void OnReadDone(bool ok) final;
  void OnCancel() final;
  void OnDone() final;

 protected:
  // Reads the message; once. Without it the call is refused.
  void Receive(MessageIntake* intake);

  virtual void OnMessage(const grpc::ByteBuffer& message) = 0;
  // The call is to be finished with this status.
  virtual void OnNoMessage(const absl::Status& why) = 0;
  // The client has reset the call, or its deadline is over; at any time, once.
  virtual void OnClientGone(bool before_message) = 0;
  // gRPC lets go; nothing of the call may be touched from now on.
  virtual void OnEnded() {}

 private:
  std::shared_ptr<ReceivedCall> self_;
  MessageIntake* intake_ = nullptr;
  MessageIntake::Ticket ticket_ = 0;
  grpc::ByteBuffer message_;
};

}  // namespace tessera

#endif  // TESSERA_SERVER_GRPC_RECEIVED_CALL_H_
