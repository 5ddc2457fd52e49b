#include "server/grpc/received_call.h"

#include <utility>

namespace tessera {

void ReceivedCall::Receive(MessageIntake* intake) {
  intake_ = intake;
  ticket_ = intake->Enter(self_);
  StartRead(&message_);
}

void ReceivedCall::OnReadDone(bool ok) {
  if (!ok) return intake_->NothingCame(ticket_);  // perhaps OnCancel() follows
  if (!intake_->Leave(ticket_)) return;
  const grpc::ByteBuffer message = std::exchange(message_, {});
  OnMessage(message);
}

void ReceivedCall::GiveUp(const absl::Status& why) { OnNoMessage(why); }

void ReceivedCall::OnCancel() {
  OnClientGone(/*before_message=*/intake_ != nullptr && intake_->Leave(ticket_));
}

void ReceivedCall::OnDone() {
  const std::shared_ptr<ReceivedCall> last = std::move(self_);
  OnEnded();
}

}  // namespace tessera
